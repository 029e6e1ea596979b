BEGIN TRANSACTION;
CREATE TABLE admin_keys (
	name TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	role TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	CONSTRAINT pk_admin_keys PRIMARY KEY (name)
)
 STRICT

;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0004');
CREATE TABLE audit_log (
	audit_id TEXT NOT NULL, 
	at TEXT NOT NULL, 
	actor TEXT NOT NULL, 
	action TEXT NOT NULL, 
	tenant_id TEXT, 
	subject TEXT, 
	detail TEXT NOT NULL, 
	CONSTRAINT pk_audit_log PRIMARY KEY (audit_id)
)
 STRICT

;
CREATE TABLE charges (
	tenant_id TEXT NOT NULL, 
	event_day TEXT NOT NULL, 
	event_id TEXT NOT NULL, 
	priced INTEGER NOT NULL, 
	currency TEXT NOT NULL, 
	charge_nano INTEGER, 
	credits INTEGER, 
	cost_currency TEXT NOT NULL, 
	cost_nano INTEGER, 
	price_book TEXT NOT NULL, 
	cost_book TEXT NOT NULL, 
	lines TEXT NOT NULL, 
	CONSTRAINT pk_charges PRIMARY KEY (tenant_id, event_day, event_id)
)
 STRICT

;
INSERT INTO "charges" VALUES('acme','2026-11-20','01a1f8d3-0000-7000-8000-000000000000',1,'USD',837000,NULL,'USD',697500,'standard-v1','costs-v1+genai-prices-0.2.3','[{"dimension":"input_tokens","quantity":73,"price":"3000/1","charge_nano":219000,"cost":"2500/1","cost_nano":182500},{"dimension":"input_tokens_cached","quantity":44,"price":"1500/1","charge_nano":66000,"cost":"1250/1","cost_nano":55000},{"dimension":"output_tokens","quantity":46,"price":"12000/1","charge_nano":552000,"cost":"10000/1","cost_nano":460000}]');
CREATE TABLE credentials (
	tenant_id TEXT NOT NULL, 
	provider TEXT NOT NULL, 
	sealed TEXT NOT NULL, 
	fields TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	CONSTRAINT pk_credentials PRIMARY KEY (tenant_id, provider)
)
 STRICT

;
CREATE TABLE gateway_keys (
	key_id TEXT NOT NULL, 
	tenant_id TEXT, 
	name TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	scopes TEXT NOT NULL, 
	category TEXT, 
	tags TEXT NOT NULL, 
	expires_at TEXT, 
	revoked_at TEXT, 
	created_at TEXT NOT NULL, 
	CONSTRAINT pk_gateway_keys PRIMARY KEY (key_id)
)
 STRICT

;
CREATE TABLE idempotent_answers (
	actor TEXT NOT NULL, 
	idempotency_key TEXT NOT NULL, 
	request_digest TEXT NOT NULL, 
	status TEXT NOT NULL, 
	sealed TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	CONSTRAINT pk_idempotent_answers PRIMARY KEY (actor, idempotency_key)
)
 STRICT

;
CREATE TABLE idempotent_calls (
	tenant_id TEXT NOT NULL, 
	idempotency_key TEXT NOT NULL, 
	call_id TEXT NOT NULL, 
	request_digest TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	CONSTRAINT pk_idempotent_calls PRIMARY KEY (tenant_id, idempotency_key)
)
 STRICT

;
CREATE TABLE installation (
	name TEXT NOT NULL, 
	value TEXT NOT NULL, 
	CONSTRAINT pk_installation PRIMARY KEY (name)
)
 STRICT

;
CREATE TABLE quarantine (
	quarantine_id TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	tenant_id TEXT, 
	record TEXT NOT NULL, 
	set_aside_at TEXT NOT NULL, 
	CONSTRAINT pk_quarantine PRIMARY KEY (quarantine_id)
)
 STRICT

;
CREATE TABLE rollups (
	tenant_id TEXT NOT NULL, 
	day TEXT NOT NULL, 
	source TEXT NOT NULL, 
	event_type TEXT NOT NULL, 
	channel TEXT NOT NULL, 
	direction TEXT NOT NULL, 
	endpoint TEXT NOT NULL, 
	resource TEXT NOT NULL, 
	category TEXT NOT NULL, 
	key_id TEXT NOT NULL, 
	currency TEXT NOT NULL, 
	cost_currency TEXT NOT NULL, 
	events INTEGER NOT NULL, 
	unknown_events INTEGER NOT NULL, 
	unpriced_events INTEGER NOT NULL, 
	units INTEGER, 
	input_tokens INTEGER, 
	input_tokens_cached INTEGER, 
	input_tokens_cache_write INTEGER, 
	input_tokens_audio INTEGER, 
	input_tokens_image INTEGER, 
	input_tokens_audio_cached INTEGER, 
	input_tokens_image_cached INTEGER, 
	output_tokens INTEGER, 
	output_tokens_audio INTEGER, 
	output_tokens_image INTEGER, 
	output_tokens_reasoning INTEGER, 
	messages INTEGER, 
	segments INTEGER, 
	media INTEGER, 
	seconds INTEGER, 
	recipients INTEGER, 
	characters INTEGER, 
	images INTEGER, 
	web_searches INTEGER, 
	file_searches INTEGER, 
	containers INTEGER, 
	requests INTEGER, 
	charge_nano INTEGER, 
	credits INTEGER, 
	cost_nano INTEGER, 
	CONSTRAINT pk_rollups PRIMARY KEY (tenant_id, day, source, event_type, channel, direction, endpoint, resource, category, key_id, currency, cost_currency)
)
 STRICT

;
INSERT INTO "rollups" VALUES('acme','2026-11-20','openai','llm_call','ai','','chat.completions','gpt-4o-2024-08-06','rag','k1','USD','USD',1,0,0,163,73,44,NULL,NULL,NULL,NULL,NULL,46,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,837000,NULL,697500);
CREATE TABLE spool_positions (
	spool_id TEXT NOT NULL, 
	segment INTEGER NOT NULL, 
	sequence INTEGER NOT NULL, 
	updated_at TEXT NOT NULL, 
	CONSTRAINT pk_spool_positions PRIMARY KEY (spool_id)
)
 STRICT

;
CREATE TABLE tenant_plans (
	tenant_id TEXT NOT NULL, 
	effective_at TEXT NOT NULL, 
	"plan" TEXT, 
	CONSTRAINT pk_tenant_plans PRIMARY KEY (tenant_id, effective_at)
)
 STRICT

;
CREATE TABLE tenants (
	tenant_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	status TEXT NOT NULL, 
	"plan" TEXT, 
	currency TEXT NOT NULL, 
	account_sid TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	CONSTRAINT pk_tenants PRIMARY KEY (tenant_id), 
	CONSTRAINT uq_tenants_account_sid UNIQUE (account_sid)
)
 STRICT

;
CREATE TABLE usage_events (
	tenant_id TEXT NOT NULL, 
	event_day TEXT NOT NULL, 
	event_id TEXT NOT NULL, 
	source TEXT NOT NULL, 
	event_type TEXT NOT NULL, 
	channel TEXT NOT NULL, 
	direction TEXT, 
	endpoint TEXT NOT NULL, 
	resource TEXT, 
	external_id TEXT, 
	units INTEGER, 
	quantities TEXT NOT NULL, 
	completeness TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	corrects TEXT, 
	category TEXT NOT NULL, 
	tags TEXT NOT NULL, 
	description TEXT, 
	metadata TEXT NOT NULL, 
	key_id TEXT, 
	call_id TEXT, 
	status INTEGER, 
	duration_ms INTEGER, 
	metered INTEGER NOT NULL, 
	occurred_at TEXT NOT NULL, 
	recorded_at TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	CONSTRAINT pk_usage_events PRIMARY KEY (tenant_id, event_day, event_id)
)
 STRICT

;
INSERT INTO "usage_events" VALUES('acme','2026-11-20','01a1f8d3-0000-7000-8000-000000000000','openai','llm_call','ai',NULL,'chat.completions','gpt-4o-2024-08-06','chatcmpl-1',163,'{"input_tokens":73,"input_tokens_cached":44,"output_tokens":46}','reported','usage',NULL,'rag','{}','gpt-4o chat completion','{}','k1','01a1f8d3-0000-7000-8000-000000000000',200,812,1,'2026-11-20T12:00:00.000Z','2026-11-20T12:00:00.000Z','6fe2cb047b3a245f');
CREATE INDEX ix_gateway_keys_tenant_id ON gateway_keys (tenant_id);
CREATE TRIGGER audit_log_no_update BEFORE UPDATE ON audit_log BEGIN SELECT RAISE(ABORT, 'audit_log is append-only'); END;
CREATE TRIGGER audit_log_no_delete BEFORE DELETE ON audit_log BEGIN SELECT RAISE(ABORT, 'audit_log is append-only'); END;
CREATE INDEX ix_usage_events_occurred_at_event_id ON usage_events (occurred_at, event_id);
CREATE INDEX ix_usage_events_tenant_id_external_id ON usage_events (tenant_id, external_id);
CREATE INDEX ix_usage_events_tenant_id_occurred_at_event_id ON usage_events (tenant_id, occurred_at, event_id);
CREATE TRIGGER usage_events_no_update BEFORE UPDATE ON usage_events BEGIN SELECT RAISE(ABORT, 'usage_events is append-only'); END;
CREATE TRIGGER usage_events_no_delete BEFORE DELETE ON usage_events BEGIN SELECT RAISE(ABORT, 'usage_events is append-only'); END;
CREATE TRIGGER quarantine_no_update BEFORE UPDATE ON quarantine BEGIN SELECT RAISE(ABORT, 'quarantine is append-only'); END;
CREATE TRIGGER quarantine_no_delete BEFORE DELETE ON quarantine BEGIN SELECT RAISE(ABORT, 'quarantine is append-only'); END;
CREATE INDEX ix_rollups_day ON rollups (day);
CREATE TRIGGER charges_no_update BEFORE UPDATE ON charges BEGIN SELECT RAISE(ABORT, 'charges is append-only'); END;
CREATE TRIGGER charges_no_delete BEFORE DELETE ON charges BEGIN SELECT RAISE(ABORT, 'charges is append-only'); END;
CREATE TRIGGER tenant_plans_no_update BEFORE UPDATE ON tenant_plans BEGIN SELECT RAISE(ABORT, 'tenant_plans is append-only'); END;
CREATE TRIGGER tenant_plans_no_delete BEFORE DELETE ON tenant_plans BEGIN SELECT RAISE(ABORT, 'tenant_plans is append-only'); END;
COMMIT;

"""The commands, a module for each group. `invocation` is what they share; `gateway.cli` lists them."""

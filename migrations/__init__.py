"""The schema's history. README.md beside this file has the law for additions."""

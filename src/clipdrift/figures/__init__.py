"""Pictures. They compute nothing: every number comes from a record, a table or a comparison."""

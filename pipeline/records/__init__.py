"""What rows are: schemas, identities, outcomes of stages, the ledger of rejections, the query list."""

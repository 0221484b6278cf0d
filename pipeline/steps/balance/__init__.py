"""The steps of both balances: of the plan, and of what was really fetched."""

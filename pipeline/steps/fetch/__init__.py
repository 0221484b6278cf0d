"""The steps from the plan to pictures: what is known, what is missing, the store of facts."""

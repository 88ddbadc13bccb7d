"""How a model answers: passages scored in batches, answers finished as words, stopping early."""

"""A stage is trained: prompts, groups, scores, batch, loss, update, and what is kept of it as it goes."""

"""`musiq-bench`: what each artifact of a model costs in time and memory, and what it keeps of the scores, in one table."""

"""What train.py's loop is made of: batches, the parts of a step, the trunk's start, the files of a run's folder."""

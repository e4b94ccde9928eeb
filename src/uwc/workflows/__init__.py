"""Functions of users' tasks with studies, one file each: comparison, replay, running and planning."""

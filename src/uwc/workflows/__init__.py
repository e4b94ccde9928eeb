"""What a user can do, as plain functions, one file a task; the command line is a thin layer over these."""

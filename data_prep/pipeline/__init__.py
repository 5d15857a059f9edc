"""Plan, decode, resume, write: knows no medium."""

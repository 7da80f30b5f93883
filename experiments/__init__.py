"""Studies of the library, each run by one command; see README.md."""

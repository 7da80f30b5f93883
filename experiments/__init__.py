"""Claims about the library, each checked by one command; see README.md in this folder."""

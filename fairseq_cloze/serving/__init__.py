"""Serving: answers for people and programs that ask one passage at a time: in the terminal, as a page, over HTTP."""

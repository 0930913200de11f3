"""The pages of docs/ as a site of their own: `make site`."""

"""Ray's Export API, end to end: file -> tail -> chunk -> publish -> consume -> append -> fold -> serve."""

"""Ray's own API and dashboard, answered from a history: what Ray's clients ask a living cluster."""

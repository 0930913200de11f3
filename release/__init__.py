"""A release, up to its upload: `make release` builds what is uploaded, and checks it as those who install it would."""

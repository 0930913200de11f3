"""
What the collector of KubeRay's history server has stored, as chunks.

`layout` finds its files, `files` reads one as far as it can be read, and `reading` makes chunks of the events in them.
"""

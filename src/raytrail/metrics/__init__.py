"""``/metrics``, ``/healthz`` and ``/readyz`` beside the line: what Prometheus, Kubernetes and people ask a process."""

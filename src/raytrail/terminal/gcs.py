"""
A stand-in for a GCS: as much of one as tells Ray's commands where the dashboard of a cluster is.

`ray logs` and `get_log` take the address of a GCS, ask it for the cluster's id and for the dashboard's address, and
then speak HTTP with that (`ray_address_to_api_server_url`, ray/dashboard/utils.py, Ray 2.48 to 2.60).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from raytrail.errors import ConfigError

NOT_FOUND = 17
"""``StatusCode::NotFound`` in src/ray/common/status.h."""
THREADS = 2
HOST = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
"""
Ray makes 127.0.0.1 the machine's address on the network (`resolve_ip_for_localhost`, ray/_private/services.py), where
nothing of ours listens. On Linux all of 127.0.0.0/8 is the machine itself.
"""


@contextmanager
def standing_in(dashboard: str, cluster: str) -> Iterator[str]:
    """
    Answer as the GCS of a cluster for as long as this lasts, on a free port. Yield its address, ``host:port``.

    Args:
        dashboard: Its dashboard's address, without ``http://``. It may have a path.
        cluster: A text that tells the cluster from others. Its id follows from it.

    Raises:
        ConfigError: There is no Ray here, or one without its dashboard.
    """
    try:
        # neither has types that a checker could read
        grpc: Any = import_module("grpc")
        messages: Any = import_module("ray.core.generated.gcs_service_pb2")
    except ImportError as error:
        raise ConfigError(f"Ray's commands are not installed here ({error}); pip install 'ray[default]'") from error

    def cluster_id(_: Any, __: Any) -> Any:
        id = hashlib.blake2b(cluster.encode(), digest_size=28).digest()
        return messages.GetClusterIdReply(cluster_id=id)

    def value(request: Any, _: Any) -> Any:
        if (request.namespace, request.key) == (b"dashboard", b"dashboard"):
            return messages.InternalKVGetReply(value=dashboard.encode())
        return messages.InternalKVGetReply(
            status=messages.GcsStatus(code=NOT_FOUND, message="a history keeps no such key")
        )

    server = grpc.server(ThreadPoolExecutor(THREADS))
    for service, method, request, answer in (
        ("ray.rpc.NodeInfoGcsService", "GetClusterId", messages.GetClusterIdRequest, cluster_id),
        ("ray.rpc.InternalKVGcsService", "InternalKVGet", messages.InternalKVGetRequest, value),
    ):
        handler = grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=request.FromString, response_serializer=_serialized
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port(f"{HOST}:0")
    server.start()
    try:
        yield f"{HOST}:{port}"
    finally:
        server.stop(grace=None).wait()


def _serialized(message: Any) -> bytes:
    written: bytes = message.SerializeToString()
    return written

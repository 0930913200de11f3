"""What becomes of a call to one of Ray's own services (its GCS, a raylet) that fails: an error of ours."""

from __future__ import annotations

from typing import Any, TypeVar

from raytrail.errors import ConfigError, RaytrailError

_Unavailable = TypeVar("_Unavailable", bound=RaytrailError)


def failed(error: Any, service: str, unavailable: type[_Unavailable], do: str = "") -> ConfigError | _Unavailable:
    """
    Return our error for one of gRPC's.

    Args:
        error: A `grpc.RpcError`; whoever imports grpc imports the whole of it.
        service: The service that was asked, and its address.
        unavailable: The error for a service that may answer later.
        do: The advice for that case.
    """
    reason = f"{error.code().name}: {error.details()}"
    if error.code().name in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return ConfigError(
            f"the {service} does not let us in ({reason}); give this process the cluster's token, with "
            f"RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
        )
    return unavailable(f"the {service} does not answer ({reason}){do and '; '}{do}")

"""`s3://bucket/prefix`: s3fs finds credentials, region and endpoint and signs; the bytes come by plain HTTP ranges."""

from __future__ import annotations

import botocore.exceptions
from s3fs import S3FileSystem

from loaders.errors import RemoteError, RemoteRefusedError
from loaders.remote.http_transport import HttpTransport
from loaders.remote.url import RemoteUrl, parse_url

#: For one request, which may have to wait for its turn.
_VALID_S = 3600


def s3_transport(url: RemoteUrl) -> HttpTransport:
    """Reach objects below a prefix, with the credentials of the environment (as every tool of AWS, and FSSPEC_S3_*)."""
    # Not a cached one: its settings are those of the environment now.
    filesystem = S3FileSystem(skip_instance_cache=True, use_listings_cache=False)

    def locate(name: str) -> RemoteUrl:
        key = f"{url.host}{url.plain_path}/{name}"
        try:
            return parse_url(filesystem.sign(key, expiration=_VALID_S))
        except botocore.exceptions.NoCredentialsError as error:
            raise RemoteRefusedError(f"{url}: no credentials for S3 were found") from error
        except botocore.exceptions.BotoCoreError as error:
            raise RemoteError(f"{url}: {error}") from error

    return HttpTransport(url, locate=locate)

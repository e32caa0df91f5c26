"""`python gcs_server.py PORT`: an emulator of Google Cloud Storage on this machine, with an empty `gs://bucket`."""

import sys

from gcp_storage_emulator.handlers import objects

_download = objects.download


def download(request, response, storage, *args, **kwargs):
    """The real service says which generation of an object it sends; tensorstore reads nothing without."""
    try:
        found = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
        response["x-goog-generation"] = found["generation"]
    except objects.NotFound:
        pass
    return _download(request, response, storage, *args, **kwargs)


objects.download = download  # before the server's table of routes is made

if __name__ == "__main__":
    from gcp_storage_emulator.server import create_server

    create_server("localhost", int(sys.argv[1]), in_memory=True, default_bucket="bucket").run()

"""An export as a model repository of Hugging Face's hub, in one commit, by huggingface_hub.

A network is asked for by HF_HUB_OFFLINE=0 alone; whose account it is says HF_TOKEN, or `hf auth login`.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.errors import one_line
from pipeline.storage.bucket import BucketPath
from pipeline.storage.copies import download, scratch_files
from pipeline.storage.place import Place
from training.errors import OutputError
from training.learning.network import may_use_network

__all__ = ["check_may_push", "push"]


def check_may_push() -> None:
    """Raise OutputError where the user has not asked for a network; before anything is exported."""
    if not may_use_network():
        raise OutputError("--push: goes to a network; set HF_HUB_OFFLINE=0, and HF_TOKEN to a token that may write")


def push(directory: Place, repository: str, *, private: bool, texts: Mapping[str, str]) -> str:
    """Send the files of `directory`, and `texts` by file name, to `repository`, made where it is not there.

    Files that are there and not here stay. Returns the commit's URL. Raises OutputError.
    """
    check_may_push()
    from huggingface_hub import CommitOperationAdd, HfApi

    with scratch_files() as scratch:
        if isinstance(directory, BucketPath):
            for path in directory.iterdir():
                download(path, scratch / path.name)
        here = scratch if isinstance(directory, BucketPath) else directory
        contents: dict[str, str | bytes] = {path.name: str(path) for path in sorted(here.iterdir()) if path.is_file()}
        contents |= {name: text.encode() for name, text in texts.items()}
        added = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=what) for name, what in contents.items()]
        api = HfApi(library_name="openwit")
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            done = api.create_commit(repository, added, commit_message=f"Export of {directory.name} by Openwit")
        except Exception as error:  # those of its HTTP library go through, and that has changed twice
            raise OutputError(
                f"--push {repository}: {one_line(error, 240)}; the export itself is whole, at {directory}"
            ) from error
    return str(done.commit_url)

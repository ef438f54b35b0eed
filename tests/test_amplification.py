"""Small files and configurations that ask for much memory or time are refused, and a ceiling can be raised."""

import contextlib
import gzip
import json
import shutil
import warnings
import zlib
from pathlib import Path

import anndata as ad
import google_crc32c
import h5py
import numcodecs
import numpy as np
import pyarrow as pa
import pytest
import zarr

import cell2text
from cell2text.describe.cell_files import locate_cells, open_cells
from cell2text.describe.described_file import read_described
from cell2text.describe.gene_list_files import read_gene_lists
from cell2text.describe.options import DescribeOptions
from cell2text.errors import UserError
from cell2text.evaluation.predictions import check_rows
from cell2text.models import MINI
from cell2text.sources import amounts, inflation
from cell2text.sources.amounts import check_element, read_element
from cell2text.sources.containers import load_anndata
from cell2text.sources.discovery import find_source
from cell2text.yaml_files import read_yaml
from configuration_cell2text import Cell2TextConfig, count_parameters
from errors_cell2text import ceiling, excess

from .describing import write_zarr


GIB = 1 << 30


@pytest.fixture
def cells(tmp_path):
    path = tmp_path / "cells.h5ad"
    cell2text.example_cells(unseen=True)[:5, :300].copy().write_h5ad(path)
    return path


def replace(root, name, shape, dtype, **options):
    """Replace an array by one that declares a shape and stores nothing."""
    attributes = dict(root[name].attrs) if name in root else {"encoding-type": "array", "encoding-version": "0.2.0"}
    if name in root:
        del root[name]
    root.create_dataset(name, shape, dtype, chunks=options.pop("chunks", True), compression="gzip", **options)
    root[name].attrs.update(attributes)


def add_column(root, name, *args, **options):
    replace(root, f"obs/{name}", *args, **options)
    root["obs"].attrs["column-order"] = np.array([*root["obs"].attrs["column-order"], name], dtype=object)


def describe_counts(path):
    """Read all that `describe` reads of a file of counts."""
    with open_cells(locate_cells(path), DescribeOptions()) as opened:
        opened.source.read_obs(opened.source.obs_columns())
        opened.source.read_counts(np.arange(opened.n_cells))
        opened.source.read_cell_names(np.arange(opened.n_cells))


TEXT = h5py.string_dtype()
FILES = {
    "names": (
        lambda root: replace(root, "obs/_index", (10**8,), TEXT),
        "100,000,000 names, expected at most 20,000,000",
    ),
    "fixed names": (lambda root: replace(root, "obs/_index", (10**8,), "S20"), "100,000,000 names"),
    "a chunk": (lambda root: replace_matrix(root, (5, 2**30), (1, 2**30 - 1)), "would inflate to 4,294,967,292"),
    "a column": (lambda root: add_column(root, "x", (10**8,), "i2"), "has the shape .100000000,. in a table of 5"),
    "a dense matrix": (lambda root: replace_matrix(root, (5, 2**45)), "a block of X takes"),
    "indices": (lambda root: replace(root, "X/indptr", (2**45,), "i8"), "takes .* bytes, expected at most"),
}


def replace_matrix(root, shape, chunks=(1, 300)):
    del root["X"]
    root.create_dataset("X", shape, "f4", chunks=chunks, compression="gzip")
    root["X"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


@pytest.mark.parametrize("change", FILES)
def test_h5ad_files_that_declare_too_much_are_refused(cells, change):
    damage, message = FILES[change]
    with h5py.File(cells, "r+") as root:
        damage(root)
    assert cells.stat().st_size < 10_000_000
    with pytest.raises(UserError, match=message):
        describe_counts(cells)


def test_a_file_is_read_whole_only_if_it_fits_in_memory(cells):
    with h5py.File(cells, "r+") as root:
        replace(root, "obsm/X_umap", (2**45, 2), "f4")
    with pytest.raises(UserError, match="takes .* bytes, expected at most .* CELL2TEXT_MAX_BYTES="):
        load_anndata(find_source(str(cells)))


def test_described_files_with_huge_maps_and_parameters_are_refused(cells):
    adata = cell2text.example_cells(unseen=True)[:3].copy()
    cell2text.tl.describe(adata)
    adata.write_h5ad(cells)
    assert len(read_described(cells).cells) == 3
    for place in ("obsm/X_umap", "obsm/X_cell2text", "uns/cell2text/more"):
        shutil.copyfile(cells, bad := cells.with_name("bad.h5ad"))
        with h5py.File(bad, "r+") as root:
            replace(root, place, (2**45, 2), "f4")
        with pytest.raises(UserError, match=f"/{place.split('/')[0]}.* takes .* bytes"):
            read_described(bad)


@pytest.mark.parametrize("place", ["X", "obs/x"])
def test_a_chunk_that_inflates_to_more_than_it_declares_is_damaged(cells, place, monkeypatch):
    monkeypatch.setattr(inflation, "UNCHECKED_BYTES", 1 << 20)
    content = zlib.compress(b"\0" * (4 << 20))
    with h5py.File(cells, "r+") as root:
        if place == "X":
            replace_matrix(root, (5, 300))
        else:
            add_column(root, "x", (5,), "f4", chunks=(5,))
        root[place].id.write_direct_chunk((0,) * root[place].ndim, content)
    with pytest.raises(UserError, match="is damaged: a chunk inflates to more than its"):
        describe_counts(cells)


def test_zarr_arrays_that_declare_too_much_are_refused(cells, tmp_path):
    for number, (shape, chunk, message) in enumerate(
        (((2**29,), (2**29,), "would inflate"), ((2**45,), (1000,), "takes .* bytes"))
    ):
        store = tmp_path / f"{number}.zarr"
        write_zarr(cells, store)
        root = zarr.open_group(store, mode="r+", use_consolidated=False)
        root["obsm"].create_array("x", shape=shape, chunks=chunk, dtype="f8")
        with pytest.raises(UserError, match=f"{number}.zarr.*{message}"):
            check_element(root)


@pytest.mark.parametrize(
    ("place", "shape", "chunks", "message"),
    [
        ("X", (5, 2**29), (5, 2**29), "would inflate"),
        ("obs/x", (2**45,), (1000,), "shape .* in a table of 5 rows"),
    ],
)
def test_zarr_stores_that_declare_too_much_are_not_read(cells, tmp_path, place, shape, chunks, message):
    write_zarr(cells, tmp_path / "cells.zarr")
    root = zarr.open_group(tmp_path / "cells.zarr", mode="r+", use_consolidated=False)
    if place == "X":
        del root["X"]
    else:
        root["obs"].attrs["column-order"] = [*root["obs"].attrs["column-order"], "x"]
    root.create_array(place, shape=shape, chunks=chunks, dtype="f8").attrs.update(
        {"encoding-type": "array", "encoding-version": "0.2.0"}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(tmp_path / "cells.zarr")
    with pytest.raises(UserError, match=message):
        describe_counts(tmp_path / "cells.zarr")


@pytest.mark.parametrize(
    ("version", "codec"), [(2, "GZip"), (2, "Zlib"), (2, "Zstd"), (3, "GzipCodec"), (3, "ZstdCodec")]
)
def test_zarr_chunks_that_inflate_to_more_than_they_declare_are_damaged(tmp_path, version, codec, monkeypatch):
    monkeypatch.setattr(inflation, "UNCHECKED_BYTES", 1 << 20)
    compressor = getattr(numcodecs if version == 2 else zarr.codecs, codec)()
    for name, size in (("small", 1000), ("large", 4 << 20)):
        options = {"compressors": compressor, "filters": None, "fill_value": 1}
        array = zarr.create_array(
            str(tmp_path / name), shape=size, chunks=size, dtype="u1", zarr_format=version, **options
        )
        array[:] = 0
        check_element(array)
    chunk = "0" if version == 2 else "c/0"
    shutil.copyfile(tmp_path / "large" / chunk, tmp_path / "small" / chunk)
    with pytest.raises(UserError, match="small.*a chunk inflates to more than its 1,000 bytes"):
        check_element(zarr.open_array(str(tmp_path / "small"), mode="r"))


@pytest.mark.parametrize("codec", ["GzipCodec", "ZstdCodec"])
@pytest.mark.parametrize("location", ["start", "end"])
def test_chunks_in_shards_that_inflate_to_more_than_they_declare_are_damaged(tmp_path, codec, location, monkeypatch):
    monkeypatch.setattr(inflation, "UNCHECKED_BYTES", 1 << 20)
    compressor = getattr(zarr.codecs, codec)()
    for name, size in (("small", 1000), ("large", 4 << 20)):
        array = zarr.create_array(
            str(tmp_path / name), shape=(4 * size,), chunks=(size,), dtype="u1", compressors=compressor, fill_value=1,
            shards={"shape": (4 * size,), "index_location": location},
        )  # fmt: skip
        array[size:] = 0  # the first chunk is not stored
        check_element(array)
    shutil.copyfile(tmp_path / "large" / "c" / "0", tmp_path / "small" / "c" / "0")
    with pytest.raises(UserError, match="small.*a chunk inflates to more than its 1,000 bytes"):
        check_element(zarr.open_array(str(tmp_path / "small"), mode="r"))
    for content in (b"", b"\0" * 40):  # reading them reports the damage
        (tmp_path / "small" / "c" / "0").write_bytes(content)
        check_element(zarr.open_array(str(tmp_path / "small"), mode="r"))


def write_shard(folder, chunks, places):
    """Write an array of two chunks of 1,000 bytes in a shard whose index is made of the given places."""
    array = zarr.create_array(
        str(folder), shape=(2000,), chunks=(1000,), shards=(2000,), dtype="u1", compressors=zarr.codecs.GzipCodec()
    )
    array[:] = 1
    index = np.array(places, dtype="<u8").tobytes()
    checksum = google_crc32c.value(index).to_bytes(4, "little")
    (folder / "c" / "0").write_bytes(b"".join(chunks) + index + checksum)
    return zarr.open_array(str(folder), mode="r")


def test_places_in_shards_are_read_as_zarr_reads_them(tmp_path, monkeypatch):
    monkeypatch.setattr(inflation, "UNCHECKED_BYTES", 1 << 20)
    bomb, none = gzip.compress(b"\0" * (4 << 20)), (2**64 - 1, 2**64 - 1)
    for number, place in enumerate(((0, len(bomb)), (0, 2**40), (0, 2**64 - 1))):  # clipped at the end of the file
        array = write_shard(tmp_path / str(number), [bomb], [place, none])
        with pytest.raises(UserError, match="a chunk inflates to more than its 1,000 bytes"):
            check_element(array)
    small = gzip.compress(b"\1" * 1000)
    check_element(write_shard(tmp_path / "beyond", [small], [(0, len(small)), (2**40, 5)]))
    with pytest.raises(UserError, match="overlap"):
        check_element(write_shard(tmp_path / "overlap", [small], [(0, len(small)), (1, len(small) - 1)]))
    whole = write_shard(tmp_path / "whole", [small, small], [(0, len(small)), (len(small), len(small))])
    check_element(whole)
    assert (whole[:] == 1).all()


def zarr_codecs():
    """Codecs of arrays that cannot be checked, as options of `zarr.create_array`."""
    codecs = zarr.codecs
    inner = codecs.ShardingCodec(chunk_shape=(10,), codecs=[codecs.BytesCodec(), codecs.GzipCodec()])
    compressed = codecs.ShardingCodec(chunk_shape=(10,), index_codecs=[codecs.BytesCodec(), codecs.GzipCodec()])
    big = codecs.ShardingCodec(chunk_shape=(10,), index_codecs=[codecs.BytesCodec(endian="big"), codecs.Crc32cCodec()])
    plain = codecs.ShardingCodec(chunk_shape=(10,))
    return {
        "shards in shards": {"serializer": codecs.ShardingCodec(chunk_shape=(100,), codecs=[inner])},
        "compressed index": {"serializer": compressed},
        "big-endian index": {"serializer": big},
        "compressed shards": {"serializer": plain, "compressors": codecs.GzipCodec()},
        "two compressors": {"compressors": [codecs.GzipCodec(), codecs.ZstdCodec()]},
        "bz2": {"zarr_format": 2, "compressors": numcodecs.BZ2()},
        "lzma": {"zarr_format": 2, "compressors": numcodecs.LZMA()},
        "lz4": {"zarr_format": 2, "compressors": numcodecs.LZ4()},
        "compressor as a filter": {"zarr_format": 2, "filters": [numcodecs.Zlib()], "compressors": numcodecs.Zlib()},
    }


@pytest.mark.parametrize("name", zarr_codecs())
def test_codecs_that_cannot_be_checked_are_refused(tmp_path, name):
    options = {"compressors": None, **zarr_codecs()[name]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = zarr.create_array(str(tmp_path / "x"), shape=(1000,), chunks=(100,), dtype="u1", **options)
    with pytest.raises(UserError, match=f"{tmp_path}/x.* is stored with .*, which is not read"):
        check_element(array)


@pytest.mark.parametrize("compressor", [None, numcodecs.Blosc(), numcodecs.Zstd(), numcodecs.GZip(), numcodecs.Zlib()])
def test_long_texts_in_compressed_chunks_are_read(tmp_path, compressor, monkeypatch):
    monkeypatch.setattr(inflation, "UNCHECKED_BYTES", 1 << 20)
    names = np.array(["x" * 50 + str(i) for i in range(10_000)], dtype=object)
    with ad.settings.override(zarr_write_format=2):
        root = zarr.open_group(tmp_path / "x.zarr", mode="w", zarr_format=2)
        ad.io.write_elem(root, "names", names, dataset_kwargs={"compressor": compressor, "chunks": (10_000,)})
    assert read_element(root["names"])[-1] == names[-1]


def test_frames_that_state_no_size_are_inflated_to_be_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(inflation, "UNCHECKED_BYTES", 1 << 20)
    array = zarr.create_array(
        str(tmp_path / "x"), shape=(9,), chunks=(9,), dtype="u1", compressors=zarr.codecs.ZstdCodec()
    )
    array[:] = 1
    for size, refused in ((4 << 20, True), (1000, False)):
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(b"\0" * size)
        (tmp_path / "x" / "c" / "0").write_bytes(sink.getvalue().to_pybytes())
        with pytest.raises(UserError, match="inflates to more") if refused else contextlib.nullcontext():
            check_element(array)


def test_compressed_texts_are_read_within_ceilings(tmp_path, monkeypatch):
    monkeypatch.setenv("CELL2TEXT_MAX_LINE_CHARACTERS", "1000")
    monkeypatch.setenv("CELL2TEXT_MAX_NAMES", "50")
    lists, matrix = tmp_path / "lists.txt.gz", tmp_path / "counts.csv.gz"
    for content, message in (
        (" ".join(["CD3D"] * 300), "line 1 has more than 1,000 characters, expected at most 1,000"),
        ("CD3D CD3E\n" * 60, "51 names, expected at most 50"),
    ):
        lists.write_bytes(gzip.compress(content.encode()))
        with pytest.raises(UserError, match=message):
            read_gene_lists(lists)
    for content, message in (
        ("gene," + ",".join(f"c{i}" for i in range(60)) + "\n" + "TP53" + ",1" * 60 + "\n", "60 names"),
        ("gene,c1,c2\n" + "".join(f"TP53{i},0,1\n" for i in range(60)), "51 names"),
        ("gene," + "c" * 2000 + "\nTP53,1\n", "more than 1,000 characters"),
    ):
        matrix.write_bytes(gzip.compress(content.encode()))
        with pytest.raises(UserError, match=message):
            load_anndata(find_source(str(matrix)))


def test_the_tables_of_a_matrix_are_read_no_further_than_its_size(tmp_path):
    header = b"%%MatrixMarket matrix coordinate integer general\n"
    (tmp_path / "barcodes.tsv").write_text("c1\nc2\n")
    for features, matrix, message in (
        (b"\r" * 100_000, b"2 2 1\n1 1 1\n", "100,000 lines and columns, but the matrix names 2"),
        (b"TP53\nCD3E\n", b"2 2 1\n1 1 1\n" + b"%\n" * 2_000_000, "hold 1 entries"),
        (b"TP53\nCD3E\n", b"2 2 9000000000000000\n1 1 1\n", "declares 9,000,000,000,000,000 entries"),
        (b"TP53\nCD3E\n", b"200000000 2 1\n1 1 1\n", "the matrix is 200,000,000 x 2"),
    ):
        (tmp_path / "features.tsv").write_bytes(features)
        (tmp_path / "matrix.mtx").write_bytes(header + matrix)
        with pytest.raises(UserError, match=message):
            load_anndata(find_source(str(tmp_path / "matrix.mtx")))


def test_long_predictions_are_refused_before_they_are_parsed():
    row = {"cell_id": "c", "reference": "This cell is a B cell.", "cell_type": "B cell"}
    with pytest.raises(UserError, match="'c': prediction has 10,000,000 characters, expected at most 10,000"):
        check_rows([{**row, "prediction": "a" * 10**7}])
    with pytest.raises(UserError, match="'c': reference has"):
        check_rows([{**row, "prediction": "a", "reference": "a " * 10**5}])


def test_aliases_of_yaml_that_repeat_each_other_are_refused(tmp_path):
    path = tmp_path / "config.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 20)]
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match="repeats its aliases to .* values, expected at most 1,000,000"):
        read_yaml(path)
    path.write_text("a: &a [*a]")
    with pytest.raises(UserError, match="holds itself"):
        read_yaml(path)
    path.write_text("a: &a [1, 2]\nb: *a\n")
    assert read_yaml(path) == {"a": [1, 2], "b": [1, 2]}


TINY = {
    "model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 8,
    "num_attention_heads": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"num_hidden_layers": 10**7}, "text_config.num_hidden_layers=10,000,000: expected at most 1,000"),
        ({"num_key_value_heads": 10**7}, "num_key_value_heads"),
        ({"head_dim": 10**7}, "head_dim"),
        ({"hidden_size": 98_304, "num_hidden_layers": 999}, "a model of about .* parameters, expected at most"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps=nan: expected a number"),
        ({"rms_norm_eps": 1e308}, "rms_norm_eps=1e.308"),
        ({"attention_dropout": 3.0}, "attention_dropout=3: expected a share"),
    ],
)
def test_configurations_beyond_any_model_are_refused(part, message, monkeypatch):
    with pytest.raises(UserError, match=message):
        Cell2TextConfig(text_config=TINY | part)
    if part == {"num_hidden_layers": 10**7}:
        monkeypatch.setenv("CELL2TEXT_MAX_NUM_HIDDEN_LAYERS", "1e7")
        assert Cell2TextConfig(text_config=TINY | part).text_config.num_hidden_layers == 10**7


@pytest.mark.parametrize(
    "option", [{"num_cell_tokens": 10**7}, {"projector_dropout": float("nan")}, {"projector_ffn_ratio": 1e11},
               {"cell_feature_layer": 99}, {"projector_num_layers": 10**7}],
)  # fmt: skip
def test_own_options_of_a_configuration_are_ranged(option):
    with pytest.raises(UserError, match=next(iter(option))):
        Cell2TextConfig(text_config=TINY, **option)


def test_parameters_are_counted_as_a_model_has_them():
    model, _ = cell2text.load(device="cpu")
    found = sum(one.numel() for name, one in model.named_parameters() if "projector" not in name)
    assert 0.8 < count_parameters(model.config) / found < 1.2


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", lambda content: content["text_config"].update(num_hidden_layers=900), "but the weights have"),
        ("processor_config.json", lambda content: content.update(num_cell_tokens=10**7), "num_cell_tokens=10000000"),
        ("processor_config.json", lambda content: content.update(max_genes=1e308), "max_genes=1e.308: expected an int"),
    ],
)
def test_model_folders_that_ask_for_too_much_are_refused(tmp_path, file, change, message):
    folder = tmp_path / "model"
    shutil.copytree(MINI, folder)
    content = json.loads((folder / file).read_text())
    change(content)
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"model='.*model'.*{message}"):
        cell2text.load(folder, device="cpu")


def test_the_environment_sets_ceilings(monkeypatch):
    file = h5py.File("names.h5", "w", driver="core", backing_store=False)
    names = file.create_dataset("names", (30_000_000,), dtype="S1")
    with pytest.raises(UserError, match="set the environment variable CELL2TEXT_MAX_NAMES=30000000"):
        check_element(names)
    monkeypatch.setenv("CELL2TEXT_MAX_NAMES", "3e7")
    monkeypatch.setenv("CELL2TEXT_MAX_BYTES", str(8 * GIB))
    check_element(names)
    monkeypatch.setenv("CELL2TEXT_MAX_NAMES", "many")
    with pytest.raises(UserError, match="CELL2TEXT_MAX_NAMES='many' in the environment: expected a number"):
        ceiling("NAMES", 5)
    assert excess("LAYERS", 5, 5) == "" and "CELL2TEXT_MAX_LAYERS=6" in excess("LAYERS", 6, 5)


def test_the_ceilings_that_security_md_states_are_those_of_the_code():
    from cell2text import yaml_files
    from cell2text.evaluation import predictions
    from cell2text.sources import ceilings, lines, market_matrix, safety
    from configuration_cell2text import LARGEST_SIZES, MODEL_PARAMETERS

    stated = {
        "CHUNK_BYTES": amounts.MAX_CHUNK_BYTES, "NAMES": ceilings.MAX_NAMES, "OBJECTS": safety.MAX_OBJECTS,
        "LINE_CHARACTERS": lines.MAX_LINE_CHARACTERS, "TABLE_BYTES": market_matrix.MAX_TABLE_BYTES,
        "TEXT_CHARACTERS": predictions.MAX_TEXT_CHARACTERS, "YAML_BYTES": yaml_files.MAX_BYTES,
        "YAML_VALUES": yaml_files.MAX_VALUES, "PARAMETERS": MODEL_PARAMETERS,
    }  # fmt: skip
    page = Path(__file__).resolve().parents[1].joinpath("SECURITY.md").read_text(encoding="utf-8")
    for name, value in stated.items():
        assert f"| `CELL2TEXT_MAX_{name}` | {value:,} |" in page
    sizes = {name: f"{LARGEST_SIZES[name]:,}" for name in ("layers", "heads", "hidden")}
    assert f"{sizes['layers']} layers, {sizes['heads']} heads, a width of {sizes['hidden']}" in page

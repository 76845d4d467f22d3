"""The extractor `yt8m`: features by the organizers' recipe; wrong files are refused."""

import io
import logging
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import yt8m
from tests.extracting import FRAMES, SOUND, each_alone, opened, refused
from yt8m.common.errors import UserError
from yt8m.data.features import PUBLISHED_RANGE, Scale
from yt8m.films.extractors import youtube8m
from yt8m.films.extractors.base import Extractor
from yt8m.films.extractors.vggish import VGGish
from yt8m.films.log_mel import log_mel

tensorflow = pytest.importorskip("tensorflow")  # has no wheel for the newest Python
v1 = tensorflow.compat.v1

WIDTHS = (2, 3, 4, 4, 5, 5)  # of the tiny VGGish's convolutions


def inception() -> bytes:
    """A graph with the tensors of Inception's: 2,048 numbers that depend on the whole frame."""
    with v1.Graph().as_default() as graph:
        decoded = tensorflow.io.decode_jpeg(v1.placeholder(tensorflow.string, ()), channels=3, name="DecodeJpeg")
        small = v1.image.resize_bilinear(tensorflow.cast(decoded, tensorflow.float32)[None], (8, 8))
        weights = np.random.default_rng(1).normal(0, 0.002, (192, 2048)).astype(np.float32)
        pooled = tensorflow.nn.relu(tensorflow.reshape(small, (1, 192)) @ weights)
        tensorflow.reshape(pooled, (1, 2048), name="pool_3/_reshape")
    return bytes(graph.as_graph_def().SerializeToString())


def vggish_variables() -> dict[str, np.ndarray]:
    """Tiny weights by the published checkpoint's names."""
    rng = np.random.default_rng(2)
    names = ("conv1", "conv2", "conv3/conv3_1", "conv3/conv3_2", "conv4/conv4_1", "conv4/conv4_2")
    shapes = {name: (3, 3, before, after) for name, before, after in zip(names, (1, *WIDTHS), WIDTHS)}
    shapes |= {"fc1/fc1_1": (6 * 4 * WIDTHS[-1], 16), "fc1/fc1_2": (16, 8), "fc2": (8, 128)}
    variables = {}
    for name, shape in shapes.items():
        variables[f"vggish/{name}/weights"] = rng.normal(0, np.prod(shape[:-1]) ** -0.5, shape).astype(np.float32)
        variables[f"vggish/{name}/biases"] = rng.normal(0, 0.1, shape[-1]).astype(np.float32)
    return variables


def write_checkpoint(path: Path, variables: dict[str, np.ndarray]) -> None:
    """A checkpoint in the one-file format of the published one."""
    with v1.Graph().as_default(), v1.Session() as session:
        for name, value in variables.items():
            v1.get_variable(name, initializer=value)
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(write_version=v1.train.SaverDef.V1)
        saver.save(session, str(path), write_meta_graph=False, write_state=False)


def archive(path: Path, contents: dict[str, bytes], folder: str = "") -> None:
    """A `.tgz` of files."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(folder + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def npy(array: np.ndarray) -> bytes:
    """An array as a file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@pytest.fixture(name="arrays", scope="module")
def fixture_arrays() -> dict[str, np.ndarray]:
    """The PCA: of more than 1,024 vectors, as published."""
    rng = np.random.default_rng(3)
    return {
        "mean.npy": rng.normal(0, 0.1, (2048, 1)),
        "eigenvals.npy": rng.uniform(0, 1, (1100, 1)),
        "eigenvecs.npy": rng.normal(0, 2048**-0.5, (1100, 2048)),
    }


@pytest.fixture(name="made", scope="module")
def fixture_made(arrays: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files as they are downloaded; not to be written to."""
    folder = tmp_path_factory.mktemp("assets")
    archive(folder / "inception-2015-12-05.tgz", {"LICENSE": b"text", "classify_image_graph_def.pb": inception()})
    archive(folder / "yt8m_pca.tgz", {name: npy(array) for name, array in arrays.items()}, "./pca/")
    write_checkpoint(folder / "vggish_model.ckpt", vggish_variables())
    rng = np.random.default_rng(4)
    pca = {"pca_eigen_vectors": rng.normal(0, 0.5, (128, 128)), "pca_means": rng.normal(0, 0.1, (128, 1))}
    np.savez(folder / "vggish_pca_params.npz", **{name: array.astype(np.float32) for name, array in pca.items()})
    return folder


@pytest.fixture(name="assets")
def fixture_assets(made: Path, tmp_path: Path) -> Path:
    """A copy of the files, for a test to change."""
    return shutil.copytree(made, tmp_path / "assets")


@pytest.fixture(name="extractor", scope="module")
def fixture_extractor(made: Path) -> Extractor:
    """`yt8m` of these files."""
    return opened("yt8m", assets=made)


def pooled_by_tensorflow(frame: np.ndarray) -> np.ndarray:
    """What the tiny graph gives for a frame."""
    definition = v1.GraphDef.FromString(inception())
    with v1.Graph().as_default(), v1.Session() as session:
        v1.import_graph_def(definition, name="")
        return np.asarray(session.run("pool_3/_reshape:0", {"DecodeJpeg:0": frame}))[0]


def vggish_by_tensorflow(patches: np.ndarray) -> np.ndarray:
    """The network, layer by layer, on patches (N, 96, 64)."""
    weights = {name.removeprefix("vggish/"): value for name, value in vggish_variables().items()}
    x = tensorflow.constant(patches[..., None])
    for group in (["conv1"], ["conv2"], ["conv3/conv3_1", "conv3/conv3_2"], ["conv4/conv4_1", "conv4/conv4_2"]):
        for name in group:
            x = tensorflow.nn.conv2d(x, weights[f"{name}/weights"], 1, "SAME") + weights[f"{name}/biases"]
            x = tensorflow.nn.relu(x)
        x = tensorflow.nn.max_pool2d(x, 2, 2, "SAME")
    x = tensorflow.reshape(x, (len(patches), -1))
    for name in ("fc1/fc1_1", "fc1/fc1_2"):
        x = tensorflow.nn.relu(x @ weights[f"{name}/weights"] + weights[f"{name}/biases"])
    return np.asarray(x @ weights["fc2/weights"] + weights["fc2/biases"])


def test_visual_features_are_the_recipe_to_the_bit(extractor: Extractor, arrays: dict[str, np.ndarray]) -> None:
    mean, eigenvals, eigenvecs = arrays.values()
    wanted = []
    for frame in FRAMES:
        x = pooled_by_tensorflow(frame)
        y = (x - mean[:, 0]) @ eigenvecs.T[:, :1024] / np.sqrt(eigenvals[:1024, 0] + 1e-4)
        wanted.append(((np.clip(y, -2, 2) + 2) * 255 / 4).round())
    bytes_of = np.stack(wanted)
    assert bytes_of.min() == 0 and bytes_of.max() == 255 and 50 < bytes_of.std() < 110  # some are clipped, most are not
    features = extractor.encode_frames(FRAMES)
    assert features.dtype == np.float32 and features.shape == (3, extractor.visual)
    assert (features == (bytes_of * 4 / 255 + 4 / 512 - 2).astype(np.float32)).all()
    quantized, clipped = Scale(*PUBLISHED_RANGE).quantize(features)
    assert (quantized == bytes_of).all() and clipped == 0
    assert (each_alone(extractor, FRAMES[::-1])[::-1] == features).all()
    assert extractor.encode_frames([]).shape == (0, 1024)


def test_audio_features_are_the_recipe(extractor: Extractor, made: Path) -> None:
    patches = log_mel(SOUND)[:, :96]
    with np.load(made / "vggish_pca_params.npz") as pca:
        y = (pca["pca_eigen_vectors"] @ (vggish_by_tensorflow(patches).T - pca["pca_means"])).T
    exact = (np.clip(y, -2, 2) + 2) * 255 / 4
    features = extractor.encode_sound(SOUND)
    assert features.dtype == np.float32 and features.shape == (3, extractor.audio)
    quantized, clipped = Scale(*PUBLISHED_RANGE).quantize(features)
    assert (np.abs(quantized - exact) < 0.5 + 1e-3).all() and clipped == 0  # the nearest, but for float32's rounding
    assert 20 < quantized.std() < 120 and (quantized[0] != quantized[1]).mean() > 0.5
    alone = np.concatenate([extractor.encode_sound(second[None]) for second in SOUND])
    assert (alone == features).all()


def test_vggish_is_its_layers(made: Path) -> None:
    reader = tensorflow.train.load_checkpoint(str(made / "vggish_model.ckpt"))
    patches = log_mel(SOUND)[:, :96]
    embeddings = VGGish(reader.get_tensor)(torch.from_numpy(patches)).numpy()
    wanted = vggish_by_tensorflow(patches)
    assert (wanted < 0).any()  # the embedding is taken before a ReLU
    np.testing.assert_allclose(embeddings, wanted, rtol=1e-4, atol=1e-5)


def test_a_film_without_sound_has_the_byte_0(extractor: Extractor) -> None:
    quantized, _ = Scale(*PUBLISHED_RANGE).quantize(extractor.without_sound()[None])
    assert quantized.shape == (1, 128) and (quantized == 0).all()
    ((_, features),) = yt8m.read_shard(
        Path(__file__).parent / "real_files" / "frame_level_extractor.tfrecord"
    )  # of the organizers
    assert features.shape[1] == extractor.visual + extractor.audio and (features[:, 1024:] == quantized).all()


def test_all_bytes_come_back_from_their_values() -> None:
    every = np.arange(256, dtype=np.uint8)
    values = youtube8m.released_values(every)
    assert (values == (every * (4 / 255) + (4 / 512 - 2)).astype(np.float32)).all()
    assert (Scale(*PUBLISHED_RANGE).quantize(values[None])[0] == every).all()
    raw = np.linspace(-3, 3, 1001)
    rounded = [min(max(round((y + 2) * 255 / 4), 0), 255) for y in raw]
    assert (youtube8m.released_bytes(raw) == rounded).all()


def test_archives_and_what_is_in_them_are_the_same(
    extractor: Extractor, assets: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("inception-2015-12-05.tgz", "yt8m_pca.tgz"):
        with tarfile.open(assets / name) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                (assets / Path(member.name).name).write_bytes(file.read())
        (assets / name).unlink()
    with caplog.at_level(logging.WARNING):
        loose = opened("yt8m", assets=assets)
    assert loose.digest == extractor.digest
    assert (loose.encode_frames(FRAMES) == extractor.encode_frames(FRAMES)).all()
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2 and all("is not the known file of https://storage.googleapis.com/" in w for w in warnings)
    write_checkpoint(assets / "vggish_model.ckpt", {**vggish_variables(), "more": np.zeros(1, np.float32)})
    assert opened("yt8m", assets=assets).digest != extractor.digest


def test_the_command_says_which_files_it_needs(assets: Path) -> None:
    everything = refused("yt8m")
    assert "--assets FOLDER" in everything and refused("yt8m:more").startswith("extractor yt8m:more: expected yt8m")
    for source in youtube8m.SOURCES:
        assert source.address.endswith(f"/{source.name}") and source.address in everything
        (assets / source.name).unlink()
        assert f"lacks {youtube8m.SOURCES[0].name} (http" in (said := refused("yt8m", assets=assets))
        assert source.address in said


def _shortened(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _a_page(_: bytes) -> bytes:
    return b"<html>404 Not Found</html>" * 10


@pytest.mark.parametrize("damage", [_shortened, _a_page, lambda _: b""])
@pytest.mark.parametrize("source", youtube8m.SOURCES, ids=lambda source: source.name)
def test_damaged_files_are_refused(source: "youtube8m._Source", damage: Callable[[bytes], bytes], assets: Path) -> None:
    path = assets / source.name
    path.write_bytes(damage(path.read_bytes()))
    said = refused("yt8m", assets=assets)
    assert said.startswith(f"{path}: ") and said.endswith(f"download {source.name} again, from {source.address}")


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("mean.npy", npy(np.zeros((1024, 1))), "is float64 with the shape (1024, 1), not floats (2048, 1)"),
        ("mean.npy", npy(np.full((2048, 1), np.nan)), "has numbers that are not finite"),
        ("mean.npy", npy(np.full((2048, 1), None)), "cannot be read as an array (Object arrays cannot be loaded"),
        (
            "eigenvals.npy",
            npy(np.zeros((1024, 1), int)),
            "is int64 with the shape (1024, 1), not floats (1024 to 2048, 1)",
        ),
        ("eigenvals.npy", npy(np.full((1024, 1), -1.0)), "has eigenvalues below 0"),
        ("eigenvecs.npy", npy(np.zeros((2048, 1024))), "not floats (1024 to 2048, 2048)"),
        ("classify_image_graph_def.pb", b"garbage", "is not a graph with DecodeJpeg:0 and pool_3/_reshape:0"),
        ("classify_image_graph_def.pb", b"", "is not a graph with DecodeJpeg:0 and pool_3/_reshape:0"),
    ],
)
def test_wrong_files_of_archives_are_refused(
    name: str, content: bytes, what: str, assets: Path, arrays: dict[str, np.ndarray]
) -> None:
    contents = {"classify_image_graph_def.pb": inception(), **{key: npy(array) for key, array in arrays.items()}}
    for key, part in {**contents, name: content}.items():
        (assets / key).write_bytes(part)
    said = refused("yt8m", assets=assets)
    assert said.startswith(f"{assets / name}: ") and what in said


def test_a_graph_of_another_width_is_refused(assets: Path) -> None:
    with v1.Graph().as_default() as graph:
        decoded = tensorflow.io.decode_jpeg(v1.placeholder(tensorflow.string, ()), channels=3, name="DecodeJpeg")
        tensorflow.reshape(tensorflow.reduce_mean(decoded), (1, 1), name="pool_3/_reshape")
    (assets / "classify_image_graph_def.pb").write_bytes(graph.as_graph_def().SerializeToString())
    assert "has the shape (1, 1), not (1, 2048)" in refused("yt8m", assets=assets)


def test_archives_without_the_files_are_refused(assets: Path) -> None:
    archive(assets / "yt8m_pca.tgz", {"mean.npy": b"", "notes.txt": b""})
    assert "lacks eigenvals.npy and eigenvecs.npy" in refused("yt8m", assets=assets)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            {"vggish/conv2/weights": np.zeros((3, 3, 7, 3), np.float32)},
            "has the shape (3, 3, 7, 3), not (3, 3, 2, any)",
        ),
        ({"vggish/fc2/weights": np.zeros((8, 64), np.float32)}, "has the shape (8, 64), not (8, 128)"),
        ({"vggish/fc2/biases": np.full(128, np.inf, np.float32)}, "does not consist of finite float32 numbers"),
        ({"vggish/conv1/weights": None}, "lacks vggish/conv1/weights"),
    ],
)
def test_another_checkpoint_is_refused(change: dict[str, np.ndarray | None], what: str, assets: Path) -> None:
    variables = {**vggish_variables(), **change}
    kept = {name: value for name, value in variables.items() if value is not None}
    write_checkpoint(assets / "vggish_model.ckpt", kept)
    said = refused("yt8m", assets=assets)
    assert said.startswith(f"{assets / 'vggish_model.ckpt'}: is not the checkpoint of VGGish (") and what in said


def test_another_pca_of_vggish_is_refused(assets: Path) -> None:
    path = assets / "vggish_pca_params.npz"
    np.savez(path, pca_eigen_vectors=np.zeros((128, 64)), pca_means=np.zeros((128, 1)))
    assert "pca_eigen_vectors: is float64 with the shape (128, 64), not floats (128, 128)" in refused(
        "yt8m", assets=assets
    )
    np.savez(path, means=np.zeros((128, 1)))
    assert f"{path}: cannot be read as pca_means and pca_eigen_vectors" in refused("yt8m", assets=assets)
    path.write_bytes(npy(np.zeros(3)))
    assert f"{path}: cannot be read as pca_means and pca_eigen_vectors" in refused("yt8m", assets=assets)


def test_without_tensorflow_the_package_is_named(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(youtube8m, "required_package", _absent)
    assert refused("yt8m", assets=made) == "tensorflow"


def _absent(module: str, _name: str, _remedy: str) -> Any:
    raise UserError(module)

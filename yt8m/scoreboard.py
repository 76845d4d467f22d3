"""MAP@K of a submission beside its members, a random order, and knowing the videos' labels only."""
import argparse
from pathlib import Path

from yt8m.cli import add_model_names, make_parser, positive, run


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = make_parser(
        __doc__, "python -m yt8m.scoreboard --data-dir data/demo --truth data/demo/truth.csv "
        "--video-labels data/demo/test_labels.csv --submission data/demo/sub.csv", "seed")
    parser.add_argument("--truth", type=Path, required=True, metavar="CSV",
                        help="ratings of test segments, columns vid,start,label,score")
    parser.add_argument("--video-labels", type=Path, metavar="CSV",
                        help="labels of the test videos, columns vid,label, for the baseline that knows only those")
    parser.add_argument("--submission", type=Path, metavar="CSV", help="the ensemble's submission")
    add_model_names(parser, "which models' predictions in cache/predictions to score")
    parser.add_argument("--top-k", type=positive, default=100_000, metavar="K",
                        help="segments of a class that count (default: 100000)")
    return parser


def main(args: argparse.Namespace) -> None:
    """Print the table. Raises `UserError`."""
    import numpy as np

    from yt8m.fusion import Fusion, Scores
    from yt8m.memmaps import SCALE, prediction_files
    from yt8m.metrics import map_at_k
    from yt8m.ranking import top_rows
    from yt8m.submission import read_submission
    from yt8m.test_meta import load_test_meta
    from yt8m.truth import read_table, read_truth
    from yt8m.vocabulary import load_vocabulary

    vocabulary = load_vocabulary(args.data_dir)
    cache = args.data_dir / "cache"
    meta = load_test_meta(cache)
    truth = read_truth(args.truth)
    names = meta.row_names().astype(str)

    def score(values: Scores) -> float:
        ranked = top_rows(Fusion([values]), args.top_k, args.seed)
        lists = {label: names[rows()].tolist() for label, rows in zip(vocabulary.labels.tolist(), ranked)}
        return map_at_k(truth, lists, args.top_k)[1]

    shape = (meta.n_rows, len(vocabulary))
    scores = {"random order": score(np.zeros(shape, np.int16))}
    if args.video_labels is not None:
        table = read_table(args.video_labels, ["vid", "label"])
        videos = {video_id.decode(): video for video, video_id in enumerate(meta.video_ids.tolist())}
        classes = vocabulary.classes(table["label"].to_numpy())
        known = table["vid"].isin(videos).to_numpy() & (classes >= 0)
        labelled = np.zeros((len(videos), len(vocabulary)), np.int16)
        labelled[table["vid"][known].map(videos), classes[known]] = SCALE
        scores["video labels only"] = score(labelled[meta.row_videos()])
    for file in prediction_files(cache, args.model_names):
        scores[file.path.stem] = score(file.read(meta, len(vocabulary)))
    if args.submission is not None:
        scores[f"ensemble ({args.submission.name})"] = map_at_k(truth, read_submission(args.submission), args.top_k)[1]
    width = max(map(len, scores))
    print(f"{'':{width}}  MAP@{args.top_k}")
    for name, value in scores.items():
        print(f"{name:{width}}  {value:.4f}")


if __name__ == "__main__":
    run(main, build_parser())

"""Fine-tune a video classifier on rated segments alone (context-agnostic): `cache/segment/NAME_FOLD`."""
import argparse
from pathlib import Path

from yt8m.cli import add_training_options, make_parser, run


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = make_parser(
        __doc__, "SEED=1213 python -m yt8m.train_pure_segment scripts/pure_segment_dbof.yaml data/cache/video/dbof-3 "
        "--fold 0 --name dbof-3", "device", "seed", "workers", "on-error")
    add_training_options(parser, "cache/segment/NAME_FOLD")
    parser.add_argument("base_model", type=Path, metavar="BASE_MODEL_DIR", help="folder of the pre-trained video model")
    parser.add_argument("--fold", type=int, required=True, metavar="K",
                        help="which of the 8 folds to validate on, 0 to 7")
    return parser


def main(args: argparse.Namespace) -> None:
    """Train and export. Raises `UserError`."""
    from helperbot import parameter_groups

    from yt8m.artifacts import load_video_model
    from yt8m.config import VideoSection, load_config, override_steps
    from yt8m.segment_models import ContextAgnosticModel
    from yt8m.training import SegmentTask, exported_config, segment_loaders, start_run, train
    from yt8m.vocabulary import load_vocabulary

    config = load_config(args.config, "pure_segment.training")
    section = override_steps(config.pure_segment, args.steps)
    settings = section.training
    vocabulary = load_vocabulary(args.data_dir)
    base = load_video_model(args.base_model, len(vocabulary))
    session = start_run(args, args.data_dir / "cache" / "segment" / f"{args.name}_{args.fold}")
    loaders = segment_loaders(args.data_dir, args.fold, vocabulary, base.config, None, settings, session)
    model = ContextAgnosticModel(base)
    groups = parameter_groups(model, settings.lr, settings.weight_decay)
    sections = exported_config(video=VideoSection(model=base.config), pure_segment=section)
    train(model, groups, SegmentTask(settings.negative_weight), settings, loaders, sections, session)


if __name__ == "__main__":
    run(main, build_parser())

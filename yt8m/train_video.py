"""Pre-train a video classifier on video-level labels: `cache/video/NAME`."""
import argparse

from yt8m.cli import add_training_options, make_parser, positive, run


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = make_parser(
        __doc__, "SEED=4827 python -m yt8m.train_video scripts/video_gated_dbof.yaml --name dbof-3",
        "device", "seed", "workers", "on-error")
    add_training_options(parser, "cache/video/NAME")
    parser.add_argument("--window", type=positive, metavar="SHARDS",
                        help="shuffle the videos of so many shards at a time, so that what is read fits the page cache "
                             "(default: shuffle all videos)")
    return parser


def main(args: argparse.Namespace) -> None:
    """Train and export. Raises `UserError`."""
    from helperbot import parameter_groups

    from yt8m.config import load_config, override_steps
    from yt8m.models import build_video_model
    from yt8m.training import VideoTask, exported_config, start_run, train, video_loaders
    from yt8m.vocabulary import load_vocabulary

    config = load_config(args.config, "video.model", "video.training")
    section = override_steps(config.video, args.steps)
    architecture, settings = section.model, section.training
    vocabulary = load_vocabulary(args.data_dir)
    session = start_run(args, args.data_dir / "cache" / "video" / args.name)
    loaders = video_loaders(args.data_dir, vocabulary, architecture, settings, args.window, session)
    model = build_video_model(architecture, len(vocabulary))
    groups = parameter_groups(model, settings.lr, settings.weight_decay)
    train(model, groups, VideoTask(), settings, loaders, exported_config(video=section), session)


if __name__ == "__main__":
    run(main, build_parser())

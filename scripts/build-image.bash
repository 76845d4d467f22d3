#!/usr/bin/env bash
# Build the image of the Dockerfile with buildah, which needs no daemon, and test it like a user: on tiny data mounted
# read-only, a few steps of training, predictions, a submission.
#
#   bash scripts/build-image.bash [--base debootstrap] [--tag NAME] [OPTION of buildah build...]
#
#   bash scripts/build-image.bash --tag yt8m-p100 --build-arg REQUIREMENTS=requirements-p100.txt
#
#   --base debootstrap   build on Debian with its own Python, installed by debootstrap, instead of the image named in
#                        FROM: for machines that reach Debian's packages but no image registry; needs root
#   --tag NAME           name of the image (default: yt8m)
#
#   BUILDAH_ISOLATION    isolation of the steps (default: chroot, which also works inside containers)
#   STORAGE_DRIVER       storage of the layers (default: overlay if available, else vfs, which copies)
#
# --volume /etc/pip.conf:/etc/pip.conf:ro gives the build this machine's pip settings, such as a mirror's address.
# podman finds the image; `buildah push NAME docker-archive:FILE:NAME` writes a file for `docker load`.
set -euo pipefail
cd "$(dirname "$0")/.."
export BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}

fail() {
    echo "build-image: $1" >&2
    exit 2
}

usage() {
    echo "build-image: $1" >&2
    echo "usage: bash scripts/build-image.bash [--base debootstrap] [--tag NAME] [OPTION of buildah build...]" >&2
    exit 2
}

needs() {
    command -v "$1" >/dev/null || fail "$1 is not installed; it is in the package of that name: apt-get install $1"
}

base='' tag=yt8m options=()
while [ $# -gt 0 ]; do
    case $1 in
        --base=* | --tag=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
        --base | --tag)
            [ -n "${2:-}" ] || usage "$1: expected a value"
            if [ "$1" = --tag ]; then tag=$2; else base=$2; fi
            shift 2 ;;
        *) options+=("$1"); shift ;;
    esac
done
[[ $base = "" || $base = debootstrap ]] || usage "--base $base: expected debootstrap"
needs buildah

container='' work=$(mktemp -d "${TMPDIR:-/var/tmp}/build-image.XXXXXX")
clean_up() {
    [ -z "$container" ] || buildah rm "$container" >/dev/null
    rm -rf --one-file-system "$work"  # should debootstrap have left /proc mounted in it
}
trap clean_up EXIT

from=$(sed -n 's/^FROM //p' Dockerfile)
if [ -z "$base" ]; then
    buildah pull --policy missing "$from" >/dev/null ||
        fail "$from could not be pulled; where no registry can be reached, add --base debootstrap"
else
    [[ $from =~ ^python:([0-9]+\.[0-9]+)\..*-([a-z]+)$ ]]
    python=${BASH_REMATCH[1]} suite=${BASH_REMATCH[2]}
    from=localhost/yt8m-base:$suite
    if ! buildah inspect --type image "$from" >/dev/null 2>&1; then
        needs debootstrap
        [ "$(id -u)" = 0 ] || fail "--base debootstrap needs root, since debootstrap does"
        debootstrap --variant=minbase --include=ca-certificates,python-is-python3,python3-venv "$suite" "$work/base"
        [ -e "$work/base/usr/bin/python$python" ] ||
            fail "--base debootstrap: $suite does not have the Python $python that the Dockerfile asks for"
        rm -rf "$work"/base/dev/* "$work"/base/var/cache/apt/* "$work"/base/var/lib/apt/lists/*
        container=$(buildah from scratch)
        cp -a "$work/base/." "$(buildah mount "$container")"
        buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
        buildah commit --rm --quiet "$container" "$from" >/dev/null
        container=''
    fi
fi

buildah build --format docker --layers --from "$from" --pull=never --tag "$tag" "${options[@]}" .

container=$(buildah from --pull=never "$tag")
mounts=()
# in_image COMMAND...: run it as `docker run` would.
in_image() {
    buildah run "${mounts[@]}" "$container" -- "$@"
}

in_image yt8m --help >/dev/null
in_image yt8m make_demo_data --data-dir /tmp/demo --classes 5 --train-videos 8 --valid-videos 8 --rated-videos 16 \
    --test-videos 4 --shard-videos 2 --min-seconds 44 --max-seconds 70
in_image tar --create --directory /tmp/demo segment video | tar --extract --preserve-permissions --directory "$work"
chmod 755 "$work"
for folder in segment video; do
    mounts+=(--volume "$work/$folder:/home/docker/src/data/$folder:ro")
done
# shellcheck disable=SC2016  # expanded in the image
in_image bash -c '[ "$(id -un)" = docker ] && [ ! -w data/video ]' ||
    fail "$tag: expected the user docker, who cannot write to data that is mounted read-only"
in_image yt8m prepare_vocabulary --overwrite
in_image yt8m train_video scripts/demo/video_gated_dbof.yaml --name tried --steps 2
in_image yt8m train_pure_segment scripts/demo/pure_segment.yaml data/cache/video/tried --fold 0 --name tried --steps 2
in_image yt8m prepare_test_meta
in_image yt8m inference_memmap
in_image yt8m create_submission_from_memmaps --output sub.csv
in_image yt8m check_submission sub.csv
echo "$tag: $(buildah images --format '{{.Size}}' "$tag"), built and tested"

#!/usr/bin/env bash
# The Debian 12 packages darkfield stands on, and how to install those that are missing.
#
#   ./jobs/packages.sh [--tests]          installs (as root or through sudo)
#   ./jobs/packages.sh [--tests] --list   prints the names, one a line: apt install $(./jobs/packages.sh --list)
#
# quickstart.sh and tests/run.sh call it first. Other distributions: the same software under other names,
# or Spack (slurm/spack.yaml).
set -euo pipefail

build_packages=(
    build-essential cmake pkg-config git
    libopenmpi-dev openmpi-bin        # MPI
    libhdf5-openmpi-dev hdf5-tools    # parallel HDF5
    libscalapack-openmpi-dev          # distributed eigenproblems
    libopenblas-openmp-dev            # GEMM, called from inside parallel regions
    libyaml-dev libjansson-dev        # job files; model files
    libpcre2-dev libutf8proc-dev      # tokenizers
    libxxhash-dev librandom123-dev    # checksums; counter-based random numbers
    zlib1g-dev libzstd-dev            # npz files; packed texts
    python3 python3-h5py python3-matplotlib python3-jinja2 # the report
)
test_packages=(
    libcmocka-dev
    clang libclang-rt-dev libomp-dev  # fuzzers
    slurm-wlm munge                   # a real Slurm for the batch scripts
)

want=("${build_packages[@]}")
list=no
for argument in "$@"; do
    case $argument in
        --tests) want+=("${test_packages[@]}") ;;
        --list) list=yes ;;
        *) echo "usage: jobs/packages.sh [--tests] [--list]" >&2; exit 2 ;;
    esac
done
if [ "$list" = yes ]; then printf '%s\n' "${want[@]}"; exit 0; fi

by_hand() {
    echo "$1" >&2
    echo "darkfield needs these Debian 12 packages, or the same software under other names:" >&2
    printf '  %s\n' "${want[*]}" >&2
    echo "Then build by hand (README, \"On a cluster\"), or set DARKFIELD_PACKAGES=no to skip this step." >&2
    exit 1
}

if [ "${DARKFIELD_PACKAGES:-}" = no ]; then exit 0; fi
distribution=$(. /etc/os-release 2>/dev/null && echo "${ID:-unknown} ${VERSION_ID:-}") || distribution=unknown
[ "$distribution" = "debian 12" ] || by_hand "This is not Debian 12 but ${distribution}: packages are not installed for you."

missing=()
for package in "${want[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then echo "packages: all installed"; exit 0; fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || by_hand "Missing packages (${missing[*]}), and neither root nor sudo is here."
    as_root=(sudo)
    [ -t 0 ] || as_root=(sudo -n) # nobody could type a password
    "${as_root[@]}" true || by_hand "Missing packages (${missing[*]}), and sudo refuses."
fi
echo "packages: installing ${missing[*]}"
apt_get() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@" </dev/null
}
apt_get update
apt_get install -y --no-install-recommends "${missing[@]}"

#!/usr/bin/env bash
# Builds and signs a release of what is committed.
#
#   ./release.sh --key FILE [--out DIR] [--profile NAME] [--allow-dirty]
#
#   --key FILE      an SSH key that signs: a private key, or a public one whose private key an agent holds
#   --out DIR       where the release goes [dist]
#   --profile NAME  Cargo's profile [release]
#   --allow-dirty   also of what is not committed, which the provenance then says
#
# A release is an archive with the program, its bill of materials (CycloneDX), its provenance (in-toto, SLSA) and all
# licences, the two descriptions beside it, and SHA256SUMS of these, signed. How to check one: SECURITY.md.
# Where the program is the same (`make reproducible` says), so is all of it: a signature by Ed25519 has no chance in it.
set -euo pipefail
cd "$(dirname "$0")"

readonly NAMESPACE=ai-proxy-release

die() {
    printf 'release: %s\n' "$*" >&2
    exit 1
}

key='' out=dist profile=release allow_dirty=''
while (($#)); do
    case $1 in
        --key | --out | --profile)
            (($# > 1)) || die "$1 needs a value"
            declare "${1#--}=$2"
            shift 2
            ;;
        --allow-dirty)
            allow_dirty=1
            shift
            ;;
        -h | --help)
            sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
            exit
            ;;
        *) die "unknown option $1; see --help" ;;
    esac
done
[[ $key ]] || die 'nothing is released unsigned: --key FILE'
[[ -r $key ]] || die "no such key: $key"
if [[ ! $allow_dirty && $(git status --porcelain) ]]; then
    die 'there are changes that are not committed'
fi

SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
target=$(rustc -vV | sed -n 's/^host: //p')
grep -q "^## \[$version\]" CHANGELOG.md || die "CHANGELOG.md says nothing of $version"

folder=$profile
[[ $profile != dev ]] || folder=debug
tools/release/build --profile "$profile"
program=${CARGO_TARGET_DIR:-target}/$folder/ai-proxy
[[ $("$program" --version) == *"$version"* ]] || die "$program is another version"

name=ai-proxy-$version-$target
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/$name"
cp "$program" LICENSE README.md CHANGELOG.md SECURITY.md .env.example "$scratch/$name/"
tools/release/describe.py "$program" "$target" "$scratch/$name"

mkdir -p "$out"
rm -f "$out/$name".* "$out"/SHA256SUMS*
tar --create --directory "$scratch" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
    --mode='u=rwX,go=rX' "$name" | gzip --no-name --best >"$out/$name.tar.gz"
cp "$scratch/$name/sbom.cdx.json" "$out/$name.cdx.json"
cp "$scratch/$name/provenance.json" "$out/$name.provenance.json"
(
    cd "$out"
    sha256sum "$name.tar.gz" "$name.cdx.json" "$name.provenance.json" >SHA256SUMS
)
ssh-keygen -q -Y sign -f "$key" -n "$NAMESPACE" "$out/SHA256SUMS"
printf 'released into %s:\n' "$out"
ls "$out"

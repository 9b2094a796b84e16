#!/bin/sh
# Makes Stead.app with the File Provider extension in it, without Xcode's projects. Needs macOS, Xcode's command line tools and
# rustup's targets aarch64-apple-darwin and x86_64-apple-darwin.
#
#   platform/macos/build.sh IDENTIFIER TEAM [development|distribution] [SIGNER [PROFILE]]
#
# IDENTIFIER is the application's, such as org.example.stead; TEAM the ten characters of the team; SIGNER the certificate's name
# ("-", which is the default, signs for this computer only); PROFILE the extension's provisioning profile. Entitlements that only a
# profile grants (com.apple.developer.*) are left out with "-", and need a profile with any other signer. The app is put into
# target/macos.
set -eu

if [ $# -lt 2 ] || [ $# -gt 5 ]; then
    echo "usage: $0 IDENTIFIER TEAM [development|distribution] [SIGNER [PROFILE]]" >&2
    exit 2
fi
identifier=$1
team=$2
kind=${3:-development}
signer=${4:--}
profile=${5:-}
case $kind in
    development | distribution) ;;
    *) echo "error: \`$kind\` is neither development nor distribution" >&2; exit 2 ;;
esac
case $identifier$team in
    *[!A-Za-z0-9.-]*) echo "error: an identifier has letters, digits, dots and hyphens" >&2; exit 2 ;;
esac
here=$(cd "$(dirname "$0")" && pwd)
if [ "$signer" = - ]; then
    if [ -n "$profile" ]; then
        echo "error: a profile is of no use without a certificate: name one as SIGNER" >&2
        exit 2
    fi
elif [ -z "$profile" ]; then
    if grep -q '<key>com\.apple\.developer\.' "$here/extension-$kind.entitlements"; then
        echo "error: the entitlements for $kind need a provisioning profile: name its file as PROFILE" >&2
        exit 2
    fi
elif [ ! -f "$profile" ]; then
    echo "error: there is no profile \`$profile\`" >&2
    exit 2
fi
if [ "$(uname -s)" != Darwin ]; then
    echo "error: this needs macOS: lipo, codesign and Apple's frameworks are not here" >&2
    exit 1
fi

root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
out=$target/macos
group=$team.$identifier
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml" | head -n 1)

# Fills in what differs from team to team.
fill() {
    sed -e "s/@IDENTIFIER@/$identifier/g" -e "s/@GROUP@/$group/g" -e "s/@VERSION@/$version/g" "$1" > "$2"
    plutil -lint -s "$2"
}

cd "$root"
binaries=
for arch in aarch64 x86_64; do
    MACOSX_DEPLOYMENT_TARGET=12.0 cargo build --release --locked -p provider --target "$arch-apple-darwin"
    binaries="$binaries $target/$arch-apple-darwin/release/stead-file-provider"
done

app=$out/Stead.app/Contents
extension=$app/PlugIns/SteadFileProvider.appex/Contents
rm -rf "$out/Stead.app"
mkdir -p "$app/MacOS" "$extension/MacOS"
# The names hold no blanks: they are made of the targets above.
# shellcheck disable=SC2086
lipo -create $binaries -output "$extension/MacOS/stead-file-provider"
cp "$extension/MacOS/stead-file-provider" "$app/MacOS/Stead"
fill "$here/app-Info.plist" "$app/Info.plist"
fill "$here/extension-Info.plist" "$extension/Info.plist"
[ -z "$profile" ] || cp "$profile" "$extension/embedded.provisionprofile"

# What is inside is signed first: its signature is a part of what is around it.
for part in extension app; do
    fill "$here/$part-$kind.entitlements" "$out/$part.entitlements"
    if [ "$signer" = - ]; then
        sed -f "$here/without-profile.sed" "$out/$part.entitlements" > "$out/$part.granted"
        mv "$out/$part.granted" "$out/$part.entitlements"
        plutil -lint -s "$out/$part.entitlements"
    fi
    bundle=$out/Stead.app
    [ "$part" = app ] || bundle=$bundle/Contents/PlugIns/SteadFileProvider.appex
    codesign --force --options runtime --timestamp=none --entitlements "$out/$part.entitlements" --sign "$signer" "$bundle"
done
codesign --verify --deep --strict "$out/Stead.app"
echo "$out/Stead.app"

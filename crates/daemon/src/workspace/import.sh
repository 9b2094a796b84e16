# Makes a working copy, at $W_PLACE, of the pack that comes in. Says where it is. Ends with 69 if there is no git, with 73 if something is
# at that place. Nothing is there before all of it is.
set -eu
umask 022
command -v git >/dev/null 2>&1 || exit 69
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 LC_ALL=C
home=${HOME:-/root}
place=${W_PLACE:-${home%/}/$W_NAME}
parent=${place%/*} name=${place##*/}
part=$parent/.$name.stead-$W_ID
mkdir -p "$parent/"
if [ -e "$place" ] || [ -L "$place" ]; then
    rmdir "$place" 2>/dev/null || exit 73
fi
trap 'rm -rf "$part"' EXIT
trap 'exit 129' HUP INT TERM
git init -q --template= --object-format="$W_FORMAT" "$part"
cd "$part"
echo "$W_ID" >.git/stead-workspace
git index-pack --stdin >/dev/null
[ -z "$W_CUT" ] || echo "$W_HEAD" >.git/shallow
git update-ref refs/stead/prepared "$W_WORKED"
if [ -n "$W_BRANCH" ]; then
    git symbolic-ref HEAD "refs/heads/$W_BRANCH"
    git update-ref "refs/heads/$W_BRANCH" "$W_HEAD"
else
    git update-ref --no-deref HEAD "$W_HEAD"
fi
[ -z "$W_USER" ] || git config user.name "$W_USER"
[ -z "$W_EMAIL" ] || git config user.email "$W_EMAIL"
# The files as they were, and then the index as it was.
git read-tree --reset -u "$W_WORKED"
git read-tree --reset "$W_STAGED"
git update-index -q --refresh || :
cd /
[ ! -e "$place" ] || exit 73
mv "$part" "$place"
trap - EXIT
printf '%s\n' "$place"

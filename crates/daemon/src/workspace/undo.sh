# Leaves nothing of the working copy $W_ID that was to be at $W_PLACE. One that is another's stays.
set -eu
home=${HOME:-/root}
place=${W_PLACE:-${home%/}/$W_NAME}
parent=${place%/*} name=${place##*/}
part=$parent/.$name.stead-$W_ID
# At once, so that whoever still makes it does not put half of it in place.
if [ -e "$part" ]; then mv "$part" "$part-gone" || :; fi
rm -rf "$part" "$part-gone"
if [ -e "$place/.git/stead-workspace" ] && [ "$(cat "$place/.git/stead-workspace")" = "$W_ID" ]; then
    rm -rf "$place"
fi

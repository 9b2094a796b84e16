# Says what is in the working copy at $W_PLACE: the commit of HEAD, the tree of all that is not ignored, and a commit that has that tree.
# If $W_WORKED is said, a pack follows of what the commit has beyond $W_BASE. Touches neither files nor index. Ends with 66 if there is no
# working copy.
set -eu
command -v git >/dev/null 2>&1 || exit 69
cd "$W_PLACE" 2>/dev/null || exit 66
directory=$(git rev-parse --absolute-git-dir 2>/dev/null) || exit 66
index=$directory/stead-index
trap 'rm -f "$index" "$index.lock"' EXIT
trap 'exit 129' HUP INT TERM
rm -f "$index" "$index.lock"
# With its time: of a file that is dated no earlier than the index git knows that it may have changed since.
if [ -e "$directory/index" ]; then cp -p "$directory/index" "$index"; fi
GIT_INDEX_FILE=$index git -c core.splitIndex=false -c core.safecrlf=false add --all
tree=$(GIT_INDEX_FILE=$index git write-tree)
head=$(git rev-parse --verify 'HEAD^{commit}')
tip=$head
if [ "$tree" != "$(git rev-parse 'HEAD^{tree}')" ]; then
    # What was sealed so before is the same commit.
    tip=$(git rev-parse --verify --quiet refs/stead/exported || :)
    if [ -z "$tip" ] || [ "$(git rev-parse "$tip^{tree}")" != "$tree" ] ||
        [ "$(git rev-parse --verify --quiet "$tip^1")" != "$head" ]; then
        if ! git config user.email >/dev/null; then
            export GIT_AUTHOR_NAME=stead GIT_AUTHOR_EMAIL=stead@localhost
            export GIT_COMMITTER_NAME=stead GIT_COMMITTER_EMAIL=stead@localhost
        fi
        tip=$(git commit-tree "$tree" -p "$head" -m 'What was not committed')
    fi
fi
printf '%s %s %s\n' "$head" "$tree" "$tip"
[ -n "$W_WORKED" ] || exit 0
git update-ref refs/stead/exported "$tip"
printf '%s\n%s\n^%s\n' "$tip" "$W_WORKED" "$W_BASE" |
    git pack-objects --quiet --revs --stdout --delta-base-offset

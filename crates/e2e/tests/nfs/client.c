/*
 * A client of NFSv3 that is not ours: commands on standard input, one a line with tab-separated fields, carried out
 * through libnfs. Each is answered with a line, "ok" and its result or "err" and the errno.
 *
 *   client 'nfs://127.0.0.1/EXPORT?version=3&nfsport=PORT&mountport=PORT'
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <unistd.h>

#include <nfsc/libnfs.h>

#define FIELDS_MAX 4
#define LINE_BYTES_MAX 8192
#define PIECE_BYTES (256 * 1024)

static struct nfs_context *nfs;

static void answer(int outcome)
{
	if (outcome < 0)
		printf("err %d\n", -outcome);
	else
		printf("ok %d\n", outcome);
}

static void describe(const char *path, int follow)
{
	struct nfs_stat_64 st;
	int outcome = follow ? nfs_stat64(nfs, path, &st) : nfs_lstat64(nfs, path, &st);

	if (outcome < 0) {
		answer(outcome);
		return;
	}
	printf("ok %o %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n",
	       (unsigned)st.nfs_mode, st.nfs_size, st.nfs_nlink, st.nfs_mtime, st.nfs_mtime_nsec, st.nfs_uid,
	       st.nfs_gid, st.nfs_ino);
}

static void list(const char *path)
{
	struct nfsdir *dir;
	struct nfsdirent *entry;
	int outcome = nfs_opendir(nfs, path, &dir);

	if (outcome < 0) {
		answer(outcome);
		return;
	}
	printf("ok");
	while ((entry = nfs_readdir(nfs, dir)) != NULL)
		printf("\t%s", entry->name);
	printf("\n");
	nfs_closedir(nfs, dir);
}

/* Copies a local file to a new file there. */
static void put(const char *local, const char *path)
{
	static char piece[PIECE_BYTES];
	struct nfsfh *file;
	ssize_t count;
	int outcome, from = open(local, O_RDONLY);

	if (from < 0) {
		printf("err local %d\n", errno);
		return;
	}
	outcome = nfs_creat(nfs, path, 0644, &file);
	if (outcome < 0) {
		close(from);
		answer(outcome);
		return;
	}
	while ((count = read(from, piece, sizeof piece)) > 0) {
		char *at = piece;

		while (count > 0) {
			outcome = nfs_write(nfs, file, count, at);
			if (outcome <= 0)
				goto out;
			at += outcome;
			count -= outcome;
		}
	}
	outcome = nfs_fsync(nfs, file);
out:
	nfs_close(nfs, file);
	close(from);
	answer(outcome);
}

/* Copies a file from there to a new local file. */
static void get(const char *path, const char *local)
{
	static char piece[PIECE_BYTES];
	struct nfsfh *file;
	int outcome, to = open(local, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	if (to < 0) {
		printf("err local %d\n", errno);
		return;
	}
	outcome = nfs_open(nfs, path, O_RDONLY, &file);
	if (outcome < 0) {
		close(to);
		answer(outcome);
		return;
	}
	while ((outcome = nfs_read(nfs, file, sizeof piece, piece)) > 0) {
		if (write(to, piece, outcome) != outcome) {
			outcome = -EIO;
			break;
		}
	}
	nfs_close(nfs, file);
	close(to);
	answer(outcome);
}

/* Writes text at an offset of a file that exists, and leaves the rest. */
static void patch(const char *path, uint64_t offset, const char *text)
{
	struct nfsfh *file;
	int outcome = nfs_open(nfs, path, O_RDWR, &file);

	if (outcome < 0) {
		answer(outcome);
		return;
	}
	outcome = nfs_pwrite(nfs, file, offset, strlen(text), text);
	nfs_close(nfs, file);
	answer(outcome);
}

static void make_many(const char *dir, int count)
{
	char path[LINE_BYTES_MAX];
	struct nfsfh *file;

	for (int number = 0; number < count; number++) {
		snprintf(path, sizeof path, "%s/name-%05d", dir, number);
		int outcome = nfs_creat(nfs, path, 0644, &file);
		if (outcome < 0) {
			answer(outcome);
			return;
		}
		nfs_close(nfs, file);
	}
	answer(count);
}

/* Reads through a handle that was opened before what `path` names was replaced or removed. */
static struct nfsfh *held;

static void hold(const char *path)
{
	answer(nfs_open(nfs, path, O_RDONLY, &held));
}

static void read_held(void)
{
	char text[256];
	int count = nfs_pread(nfs, held, 0, sizeof text - 1, text);

	if (count < 0) {
		answer(count);
		return;
	}
	text[count] = 0;
	printf("ok\t%s\n", text);
}

static void set_times(const char *path, long seconds)
{
	struct timeval times[2] = { { seconds, 0 }, { seconds, 0 } };

	answer(nfs_utimes(nfs, path, times));
}

static void read_link(const char *path)
{
	char target[LINE_BYTES_MAX];
	int outcome = nfs_readlink(nfs, path, target, sizeof target);

	if (outcome < 0)
		answer(outcome);
	else
		printf("ok\t%s\n", target);
}

static void describe_disk(const char *path)
{
	struct statvfs st;
	int outcome = nfs_statvfs(nfs, path, &st);

	if (outcome < 0)
		answer(outcome);
	else
		printf("ok %lu %lu\n", (unsigned long)(st.f_blocks * st.f_frsize), (unsigned long)st.f_files);
}

static int carry_out(char **f)
{
	if (!strcmp(f[0], "mkdir"))
		answer(nfs_mkdir2(nfs, f[1], strtol(f[2], NULL, 8)));
	else if (!strcmp(f[0], "rmdir"))
		answer(nfs_rmdir(nfs, f[1]));
	else if (!strcmp(f[0], "unlink"))
		answer(nfs_unlink(nfs, f[1]));
	else if (!strcmp(f[0], "rename"))
		answer(nfs_rename(nfs, f[1], f[2]));
	else if (!strcmp(f[0], "link"))
		answer(nfs_link(nfs, f[1], f[2]));
	else if (!strcmp(f[0], "symlink"))
		answer(nfs_symlink(nfs, f[1], f[2]));
	else if (!strcmp(f[0], "readlink"))
		read_link(f[1]);
	else if (!strcmp(f[0], "chmod"))
		answer(nfs_chmod(nfs, f[1], strtol(f[2], NULL, 8)));
	else if (!strcmp(f[0], "chown"))
		answer(nfs_chown(nfs, f[1], atoi(f[2]), atoi(f[3])));
	else if (!strcmp(f[0], "truncate"))
		answer(nfs_truncate(nfs, f[1], strtoull(f[2], NULL, 10)));
	else if (!strcmp(f[0], "utimes"))
		set_times(f[1], atol(f[2]));
	else if (!strcmp(f[0], "mkfifo"))
		answer(nfs_mknod(nfs, f[1], S_IFIFO | 0600, 0));
	else if (!strcmp(f[0], "access"))
		answer(nfs_access(nfs, f[1], atoi(f[2])));
	else if (!strcmp(f[0], "stat"))
		describe(f[1], 1);
	else if (!strcmp(f[0], "lstat"))
		describe(f[1], 0);
	else if (!strcmp(f[0], "statvfs"))
		describe_disk(f[1]);
	else if (!strcmp(f[0], "ls"))
		list(f[1]);
	else if (!strcmp(f[0], "put"))
		put(f[1], f[2]);
	else if (!strcmp(f[0], "get"))
		get(f[1], f[2]);
	else if (!strcmp(f[0], "patch"))
		patch(f[1], strtoull(f[2], NULL, 10), f[3]);
	else if (!strcmp(f[0], "many"))
		make_many(f[1], atoi(f[2]));
	else if (!strcmp(f[0], "hold"))
		hold(f[1]);
	else if (!strcmp(f[0], "read-held"))
		read_held();
	else
		return -1;
	return 0;
}

int main(int argc, char **argv)
{
	static char line[LINE_BYTES_MAX];
	struct nfs_url *url;

	setvbuf(stdout, NULL, _IOLBF, 0);
	nfs = nfs_init_context();
	if (argc != 2 || nfs == NULL)
		return 2;
	url = nfs_parse_url_dir(nfs, argv[1]);
	if (url == NULL || nfs_mount(nfs, url->server, url->path) != 0) {
		fprintf(stderr, "could not mount %s: %s\n", argv[1], nfs_get_error(nfs));
		return 1;
	}
	while (fgets(line, sizeof line, stdin) != NULL) {
		char *fields[FIELDS_MAX] = { "", "", "", "" };
		char *rest = line;

		line[strcspn(line, "\n")] = 0;
		for (int at = 0; at < FIELDS_MAX && rest != NULL; at++)
			fields[at] = strsep(&rest, "\t");
		if (carry_out(fields) != 0) {
			fprintf(stderr, "no such command: %s\n", fields[0]);
			return 2;
		}
	}
	nfs_umount(nfs);
	nfs_destroy_url(url);
	nfs_destroy_context(nfs);
	return 0;
}

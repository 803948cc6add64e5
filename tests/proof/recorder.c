/*
 * A disk that remembers: a FUSE file system with two files.
 *
 *   disk   what an image file holds; a loop device on it is a disk, and what is written to that arrives here
 *   ctl    takes commands, one a write, and tells what has happened so far when it is read
 *
 * Each write, each flush and each mark goes to the log in the order in which it came:
 *
 *   kind, 1 byte   'W' written, 'w' write failed, 'F' flushed, 'f' flush failed, 'M' mark
 *   offset         8 bytes, in the machine's own order
 *   length         4 bytes, likewise
 *   data           as many bytes: what was written, whether or not it failed, or the mark's text
 *
 * Commands:
 *
 *   mark TEXT                          write TEXT to the log
 *   fail write AFTER COUNT [FROM TO]   let AFTER writes pass, then fail COUNT of them with EIO (-1: all that come);
 *                                      only those count that touch the bytes from FROM up to TO
 *   fail flush AFTER COUNT             likewise, of flushes
 *   heal                               fail nothing any more
 *
 * What is flushed is not fsynced here: it is the disk's power that is cut, and not that of the machine it is played on.
 * A single thread serves all (-s), so the log's order is the order in which everything took effect. When the process that
 * started it is gone, so is it.
 *
 * Usage: recorder -s -f MOUNTPOINT IMAGE LOG
 */
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define DISK "/disk"
#define CTL "/ctl"
#define COMMAND_BYTES 256

/* When something is to fail. */
struct fault {
	long after; /* how many are let pass before */
	long count; /* how many fail then; -1 for all */
	off_t from; /* the bytes that it is about */
	off_t to;
};

static const struct fault none = {0, 0, 0, INT64_MAX};

static int image;
static int log_file;
static off_t size;
static struct fault write_fault, flush_fault;
static long writes, flushes, failed_writes, failed_flushes;

/* Whether this write or flush is one that fails; counts it. */
static int fails(struct fault *fault, off_t from, off_t to)
{
	if (fault->count == 0 || to <= fault->from || from >= fault->to)
		return 0;
	if (fault->after > 0) {
		fault->after--;
		return 0;
	}
	if (fault->count > 0)
		fault->count--;
	return 1;
}

/* Add an entry to the log, in one write, so that the log never ends within one. */
static int note(char kind, uint64_t offset, const char *data, uint32_t length)
{
	struct iovec parts[] = {
		{&kind, sizeof kind},
		{&offset, sizeof offset},
		{&length, sizeof length},
		{(void *)data, length},
	};
	ssize_t whole = (ssize_t)(sizeof kind + sizeof offset + sizeof length + length);

	return writev(log_file, parts, 4) == whole ? 0 : -EIO;
}

/* Carry out a command. */
static int command(const char *given, size_t length)
{
	char text[COMMAND_BYTES];
	char what[8];
	struct fault fault = none;

	if (length >= sizeof text)
		return -EINVAL;
	memcpy(text, given, length);
	text[length] = '\0';
	if (strncmp(text, "mark ", 5) == 0)
		return note('M', 0, text + 5, (uint32_t)(length - 5));
	if (strcmp(text, "heal") == 0) {
		write_fault = flush_fault = none;
		return 0;
	}
	if (sscanf(text, "fail %7s %ld %ld %ld %ld", what, &fault.after, &fault.count, &fault.from, &fault.to) < 3)
		return -EINVAL;
	if (strcmp(what, "write") == 0)
		write_fault = fault;
	else if (strcmp(what, "flush") == 0)
		flush_fault = fault;
	else
		return -EINVAL;
	return 0;
}

static int get_attributes(const char *path, struct stat *facts, struct fuse_file_info *info)
{
	(void)info;
	memset(facts, 0, sizeof *facts);
	facts->st_nlink = 1;
	facts->st_mode = S_IFREG | 0600;
	if (strcmp(path, "/") == 0) {
		facts->st_nlink = 2;
		facts->st_mode = S_IFDIR | 0700;
	} else if (strcmp(path, DISK) == 0) {
		facts->st_size = size;
	} else if (strcmp(path, CTL) != 0) {
		return -ENOENT;
	}
	return 0;
}

static int read_directory(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset,
			  struct fuse_file_info *info, enum fuse_readdir_flags flags)
{
	(void)path, (void)offset, (void)info, (void)flags;
	fill(buffer, DISK + 1, NULL, 0, 0);
	fill(buffer, CTL + 1, NULL, 0, 0);
	return 0;
}

/* Nothing is kept in the page cache: the image may be changed behind the disk's back while it is not mounted. */
static int open_file(const char *path, struct fuse_file_info *info)
{
	(void)path;
	info->direct_io = 1;
	return 0;
}

static int read_file(const char *path, char *buffer, size_t length, off_t offset, struct fuse_file_info *info)
{
	char text[COMMAND_BYTES];
	ssize_t done;

	(void)info;
	if (strcmp(path, CTL) == 0) {
		done = snprintf(text, sizeof text, "%ld %ld %ld %ld\n", writes, flushes, failed_writes, failed_flushes);
		if (offset >= done)
			return 0;
		if (length > (size_t)(done - offset))
			length = (size_t)(done - offset);
		memcpy(buffer, text + offset, length);
		return (int)length;
	}
	done = pread(image, buffer, length, offset);
	return done < 0 ? -errno : (int)done;
}

static int write_file(const char *path, const char *buffer, size_t length, off_t offset, struct fuse_file_info *info)
{
	int error;
	ssize_t done;

	(void)info;
	if (strcmp(path, CTL) == 0) {
		error = command(buffer, length);
		return error ? error : (int)length;
	}
	if (fails(&write_fault, offset, offset + (off_t)length)) {
		failed_writes++;
		note('w', (uint64_t)offset, buffer, (uint32_t)length);
		return -EIO;
	}
	writes++;
	error = note('W', (uint64_t)offset, buffer, (uint32_t)length);
	if (error)
		return error;
	done = pwrite(image, buffer, length, offset);
	return done < 0 ? -errno : (int)done;
}

/* A loop device turns a flush of its disk into an fsync of its file. */
static int flush_disk(const char *path, int data_only, struct fuse_file_info *info)
{
	(void)path, (void)data_only, (void)info;
	if (fails(&flush_fault, 0, INT64_MAX)) {
		failed_flushes++;
		note('f', 0, NULL, 0);
		return -EIO;
	}
	flushes++;
	return note('F', 0, NULL, 0);
}

/* A discard would come as a hole to punch; a disk need not know it. */
static int no_discard(const char *path, int mode, off_t offset, off_t length, struct fuse_file_info *info)
{
	(void)path, (void)mode, (void)offset, (void)length, (void)info;
	return -EOPNOTSUPP;
}

/* Whoever opens ctl to write may ask for it to be emptied, which it always is. */
static int truncate_file(const char *path, off_t length, struct fuse_file_info *info)
{
	(void)length, (void)info;
	return strcmp(path, CTL) == 0 ? 0 : -EPERM;
}

static const struct fuse_operations operations = {
	.getattr = get_attributes,
	.readdir = read_directory,
	.open = open_file,
	.read = read_file,
	.write = write_file,
	.fsync = flush_disk,
	.fallocate = no_discard,
	.truncate = truncate_file,
};

int main(int count, char **arguments)
{
	struct stat facts;

	if (count < 4) {
		fprintf(stderr, "usage: %s -s -f MOUNTPOINT IMAGE LOG\n", arguments[0]);
		return 2;
	}
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	image = open(arguments[count - 2], O_RDWR | O_CLOEXEC);
	log_file = open(arguments[count - 1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (image < 0 || log_file < 0 || fstat(image, &facts) != 0) {
		perror(arguments[0]);
		return 1;
	}
	size = facts.st_size;
	write_fault = flush_fault = none;
	return fuse_main(count - 2, arguments, &operations, NULL);
}

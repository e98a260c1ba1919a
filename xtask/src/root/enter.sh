# Enters a build root: TREE MOUNTPOINT FOLDER NUMBER-OF-BINDS BIND... PROGRAM ARGUMENT...
# Runs on the host in a mount namespace of its own, so all mounts end with the program.
set -eu
tree=$1 root=$2 folder=$3 binds=$4
shift 4

attach() {
	mount -t tmpfs -o mode=755 tmpfs "$root"
	for path in "$tree"/*; do
		name=${path##*/}
		if [ -L "$path" ]; then
			cp -P "$path" "$root/$name"
		elif [ "$name" = usr ] || [ "$name" = etc ]; then
			mkdir "$root/$name"
			mount --bind "$path" "$root/$name"
		fi
	done
	# The programs inside inherit this lock, and nobody deletes the tree before the last one has ended.
	exec 8<"$root/usr"
	flock -s 8
}

attach
# The root may have been made anew between the mounts and the lock.
until [ "$tree/usr" -ef "$root/usr" ] && [ "$tree/etc" -ef "$root/etc" ]; do
	exec 8<&-
	umount -R "$root"
	attach
done
mkdir -p "$root/proc" "$root/dev" "$root/root" "$root/run" "$root/var/tmp"
mkdir -m 1777 "$root/tmp"
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
while [ "$binds" -gt 0 ]; do
	# Below /usr and /etc this makes an empty folder or file in the root itself, which stays there.
	{
		if [ -d "$1" ]; then
			mkdir -p "$root$1"
		else
			mkdir -p "$root${1%/*}"
			[ -e "$root$1" ] || touch "$root$1"
		fi
	} || {
		echo "$1 cannot be seen in the root $tree, because no mount point for it can be made there: if it is below" \
			"/usr or /etc, become the owner of the root, or move the project or ZOSBD2_CACHE elsewhere" >&2
		exit 1
	}
	mount --rbind "$1" "$root$1"
	shift
	binds=$((binds - 1))
done
for name in usr etc; do
	[ ! -d "$tree/$name" ] || mount -o remount,bind,ro "$root/$name"
done
exec chroot "$root" /bin/sh -c 'cd "$0" && exec "$@"' "$folder" "$@"

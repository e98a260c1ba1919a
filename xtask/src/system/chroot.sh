# IMAGE MOUNTPOINT DEB...: installs packages in an image, in a mount namespace and a PID namespace of its own.
image=$1 root=$2
shift 2
mount -o loop "$image" "$root"
mount -t proc proc "$root/proc"
mount --rbind --make-rslave /dev "$root/dev"
mkdir "$root/root/debs"
cp "$@" "$root/root/debs/"
status=0
env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
	chroot "$root" sh -c 'apt-get install -y /root/debs/*.deb' 2>&1 || status=$?
umount -R "$root/dev" "$root/proc"
umount "$root"
# Standard error is in the error message.
[ "$status" = 0 ] || echo "apt-get ended with status $status" >&2
exit "$status"

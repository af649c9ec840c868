// Whether a browser shows a photo as the models saw it. The gateway turns each photo as its EXIF says; Chromium does so
// for JPEG and PNG, and not for WebP.

const HAS_EXIF = 0b1000; // in the flags of a WebP, RFC 9649 §2.7

/** How the browser shows the photo at `url`: its [height, width], and whether masks of a photo of `size` lie right on it. */
export async function seen(file, url, [height, width]) {
  const photo = new Image();
  photo.src = url;
  await photo.decode().catch(() => {}); // what it cannot show has no size
  const shown = [photo.naturalHeight, photo.naturalWidth];
  const isUpright = shown[0] === height && shown[1] === width && !(await mayBeTurned(file));
  return { shown: shown[0] ? shown : [height, width], isUpright };
}

/** A WebP that is upside down or mirrored has the same size both ways. */
async function mayBeTurned(file) {
  const head = new Uint8Array(await file.slice(0, 21).arrayBuffer());
  return String.fromCharCode(...head.slice(8, 16)) === "WEBPVP8X" && (head[20] & HAS_EXIF) !== 0;
}

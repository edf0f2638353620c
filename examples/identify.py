"""Who is on a photo? Enrolls a folder of <name>/<photo> files, then names the faces of the photo.

python identify.py PEOPLE PHOTO [MODEL]
"""

import sys
from pathlib import Path

from edgeface import EnrollmentError, FaceRecognizer, Gallery, ImageError

people, photo, *model = sys.argv[1:]
recognizer = FaceRecognizer(*model)
with Gallery("people.gallery", recognizer) as gallery:
    for file in sorted(Path(people).glob("*/*.*")):
        try:
            gallery.enroll(file.parent.name, file)
        except (EnrollmentError, ImageError) as error:  # several faces, blurred, no photo at all …
            print(error, file=sys.stderr)
    for face in recognizer.identify(photo, gallery):
        print(face.name or "unknown", face.score)

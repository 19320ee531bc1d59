"""Finding faces and bringing them into the common 112 x 112 frame."""

from privface.faces.align import align_face, as_aligned, is_crop, paste_back, similarity_transform
from privface.faces.detect import Detection, FaceDetector, MTCNNDetector, choose_face

__all__ = [
    "Detection",
    "FaceDetector",
    "MTCNNDetector",
    "align_face",
    "as_aligned",
    "choose_face",
    "is_crop",
    "paste_back",
    "similarity_transform",
]

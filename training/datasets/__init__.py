"""Labelled photos in, manifests out, and back.

panda_drawing ▶ panda_scenery ▶ pandas       drawn photos with labelme JSON beside them, from a seed
sources ▶ from_* ▶ splits ▶ importing        labelme, COCO or VIA files ─▶ one COCO manifest per split
to_labelme ▶ labelme_writer                  COCO manifest ─▶ labelme files
manifest                                     COCO manifest ─▶ Detectron2's records
labels                                       which labels there may be, and which class each means
check ▶ survey ▶ card                        what is wrong with the labels; what there is; one page about it
fix                                          labels ─▶ new labels without what is mechanical
show                                         what the labels look like
"""

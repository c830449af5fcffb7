"""Semantic segmentation on ADE20K with UperNet (Tables 4 and 7): model, inference over whole images, mIoU."""

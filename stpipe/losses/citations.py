"""BibTeX of the sources, for model cards."""

from __future__ import annotations

INFO_NCE = """@misc{oord2018representation,
  title={Representation Learning with Contrastive Predictive Coding},
  author={A{\\"a}ron van den Oord and Yazhe Li and Oriol Vinyals},
  year={2018},
  eprint={1807.03748},
  archivePrefix={arXiv}
}"""

COSENT = """@article{huang2024cosent,
  title={CoSENT: Consistent Sentence Embedding via Similarity Ranking},
  author={Xiang Huang and Hao Peng and Dongcheng Zou and Zhiwei Liu and Jianxin Li and Kay Liu and Jia Wu and Jianlin Su and Philip S. Yu},
  journal={IEEE/ACM Transactions on Audio, Speech, and Language Processing},
  year={2024},
  doi={10.1109/TASLP.2024.3402087}
}"""

ANGLE = """@inproceedings{li2024aoe,
  title={{AoE}: Angle-optimized Embeddings for Semantic Textual Similarity},
  author={Xianming Li and Jing Li},
  booktitle={Proceedings of the 62nd Annual Meeting of the Association for Computational Linguistics},
  year={2024},
  doi={10.18653/v1/2024.acl-long.101}
}"""

SENTENCE_BERT = """@inproceedings{reimers2019sentence,
  title={Sentence-{BERT}: Sentence Embeddings using {Siamese} {BERT}-Networks},
  author={Nils Reimers and Iryna Gurevych},
  booktitle={Proceedings of the 2019 Conference on Empirical Methods in Natural Language Processing},
  year={2019},
  eprint={1908.10084},
  archivePrefix={arXiv}
}"""

CONTRASTIVE = """@inproceedings{hadsell2006dimensionality,
  title={Dimensionality Reduction by Learning an Invariant Mapping},
  author={Raia Hadsell and Sumit Chopra and Yann LeCun},
  booktitle={IEEE Computer Society Conference on Computer Vision and Pattern Recognition},
  year={2006},
  doi={10.1109/CVPR.2006.100}
}"""

TRIPLET = """@misc{hermans2017defense,
  title={In Defense of the Triplet Loss for Person Re-Identification},
  author={Alexander Hermans and Lucas Beyer and Bastian Leibe},
  year={2017},
  eprint={1703.07737},
  archivePrefix={arXiv}
}"""

SEMI_HARD = """@inproceedings{schroff2015facenet,
  title={{FaceNet}: A Unified Embedding for Face Recognition and Clustering},
  author={Florian Schroff and Dmitry Kalenichenko and James Philbin},
  booktitle={IEEE Conference on Computer Vision and Pattern Recognition},
  year={2015},
  eprint={1503.03832},
  archivePrefix={arXiv}
}"""

DISTILLATION = """@inproceedings{reimers2020making,
  title={Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation},
  author={Nils Reimers and Iryna Gurevych},
  booktitle={Proceedings of the 2020 Conference on Empirical Methods in Natural Language Processing},
  year={2020},
  eprint={2004.09813},
  archivePrefix={arXiv}
}"""

MATRYOSHKA = """@inproceedings{kusupati2022matryoshka,
  title={Matryoshka Representation Learning},
  author={Aditya Kusupati and Gantavya Bhatt and Aniket Rege and Matthew Wallingford and Aditya Sinha and Vivek Ramanujan and
    William Howard-Snyder and Kaifeng Chen and Sham Kakade and Prateek Jain and Ali Farhadi},
  booktitle={Advances in Neural Information Processing Systems},
  year={2022},
  eprint={2205.13147},
  archivePrefix={arXiv}
}"""

SPLADE = """@inproceedings{formal2022distillation,
  title={From Distillation to Hard Negative Sampling: Making Sparse Neural {IR} Models More Effective},
  author={Thibault Formal and Carlos Lassance and Benjamin Piwowarski and St{\\'e}phane Clinchant},
  booktitle={Proceedings of the 45th International ACM SIGIR Conference on Research and Development in Information Retrieval},
  year={2022},
  eprint={2205.04733},
  archivePrefix={arXiv}
}

@inproceedings{paria2020minimizing,
  title={Minimizing {FLOPs} to Learn Efficient Sparse Representations},
  author={Biswajit Paria and Chih-Kuan Yeh and Ian E.H. Yen and Ning Xu and Pradeep Ravikumar and Barnab{\\'a}s P{\\'o}czos},
  booktitle={International Conference on Learning Representations},
  year={2020},
  eprint={2004.05665},
  archivePrefix={arXiv}
}"""

MARGIN_MSE = """@misc{hofstaetter2020improving,
  title={Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation},
  author={Sebastian Hofst{\\"a}tter and Sophia Althammer and Michael Schr{\\"o}der and Mete Sertkan and Allan Hanbury},
  year={2020},
  eprint={2010.02666},
  archivePrefix={arXiv}
}"""

COUPLED_TEACHERS = """@misc{lin2020distilling,
  title={Distilling Dense Representations for Ranking using Tightly-Coupled Teachers},
  author={Sheng-Chieh Lin and Jheng-Hong Yang and Jimmy Lin},
  year={2020},
  eprint={2010.11386},
  archivePrefix={arXiv}
}"""

CSR = """@inproceedings{wen2025beyond,
  title={Beyond {Matryoshka}: Revisiting Sparse Coding for Adaptive Representation},
  author={Tiansheng Wen and Yifei Wang and Zequn Zeng and Zhong Peng and Yudi Su and Xinyang Liu and Bo Chen and Hongwei Liu and
    Stefanie Jegelka and Chenyu You},
  booktitle={International Conference on Machine Learning},
  year={2025},
  eprint={2503.01776},
  archivePrefix={arXiv}
}"""

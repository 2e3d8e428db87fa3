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

PASSAGE_RERANKING = """@misc{nogueira2019passage,
  title={Passage Re-ranking with {BERT}},
  author={Rodrigo Nogueira and Kyunghyun Cho},
  year={2019},
  eprint={1901.04085},
  archivePrefix={arXiv}
}"""

RANKNET = """@inproceedings{burges2005learning,
  title={Learning to Rank using Gradient Descent},
  author={Chris Burges and Tal Shaked and Erin Renshaw and Ari Lazier and Matt Deeds and Nicole Hamilton and Greg Hullender},
  booktitle={Proceedings of the 22nd International Conference on Machine Learning},
  year={2005},
  doi={10.1145/1102351.1102363}
}"""

LAMBDA = """@inproceedings{wang2018lambdaloss,
  title={The {LambdaLoss} Framework for Ranking Metric Optimization},
  author={Xuanhui Wang and Cheng Li and Nadav Golbandi and Michael Bendersky and Marc Najork},
  booktitle={Proceedings of the 27th ACM International Conference on Information and Knowledge Management},
  year={2018},
  doi={10.1145/3269206.3271784}
}

@inproceedings{burges2006learning,
  title={Learning to Rank with Nonsmooth Cost Functions},
  author={Christopher J.C. Burges and Robert Ragno and Quoc Viet Le},
  booktitle={Advances in Neural Information Processing Systems},
  year={2006}
}"""

LISTNET = """@inproceedings{cao2007learning,
  title={Learning to Rank: From Pairwise Approach to Listwise Approach},
  author={Zhe Cao and Tao Qin and Tie-Yan Liu and Ming-Feng Tsai and Hang Li},
  booktitle={Proceedings of the 24th International Conference on Machine Learning},
  year={2007},
  doi={10.1145/1273496.1273513}
}"""

LISTMLE = """@inproceedings{xia2008listwise,
  title={Listwise Approach to Learning to Rank: Theory and Algorithm},
  author={Fen Xia and Tie-Yan Liu and Jue Wang and Wensheng Zhang and Hang Li},
  booktitle={Proceedings of the 25th International Conference on Machine Learning},
  year={2008},
  doi={10.1145/1390156.1390306}
}"""

PLISTMLE = """@inproceedings{lan2014position,
  title={Position-Aware {ListMLE}: A Sequential Learning Process for Ranking},
  author={Yanyan Lan and Yadong Zhu and Jiafeng Guo and Shuzi Niu and Xueqi Cheng},
  booktitle={Proceedings of the 30th Conference on Uncertainty in Artificial Intelligence},
  year={2014}
}"""

RANK_DISTILLM = """@inproceedings{schlatt2025rankdistillm,
  title={{Rank-DistiLLM}: Closing the Effectiveness Gap Between Cross-Encoders and {LLMs} for Passage Re-ranking},
  author={Ferdinand Schlatt and Maik Fr{\\"o}be and Harrisen Scells and Shengyao Zhuang and Bevan Koopman and Guido Zuccon and
    Benno Stein and Martin Potthast and Matthias Hagen},
  booktitle={Advances in Information Retrieval},
  year={2025},
  doi={10.1007/978-3-031-88714-7_31}
}"""

GIST_EMBED = """@misc{solatorio2024gistembed,
  title={{GISTEmbed}: Guided In-sample Selection of Training Negatives for Text Embedding Fine-tuning},
  author={Aivin V. Solatorio},
  year={2024},
  eprint={2402.16829},
  archivePrefix={arXiv}
}"""

MEGA_BATCH = """@inproceedings{wieting2018paranmt,
  title={{ParaNMT-50M}: Pushing the Limits of Paraphrastic Sentence Embeddings with Millions of Machine Translations},
  author={John Wieting and Kevin Gimpel},
  booktitle={Proceedings of the 56th Annual Meeting of the Association for Computational Linguistics},
  year={2018},
  doi={10.18653/v1/P18-1042}
}"""

SPREAD_OUT = """@inproceedings{zhang2017learning,
  title={Learning Spread-out Local Feature Descriptors},
  author={Xu Zhang and Felix X. Yu and Sanjiv Kumar and Shih-Fu Chang},
  booktitle={IEEE International Conference on Computer Vision},
  year={2017},
  eprint={1708.06320},
  archivePrefix={arXiv}
}"""

MATRYOSHKA_2D = """@misc{li2024matryoshka,
  title={{2D} Matryoshka Sentence Embeddings},
  author={Xianming Li and Zongxi Li and Jing Li and Haoran Xie and Qing Li},
  year={2024},
  eprint={2402.14776},
  archivePrefix={arXiv}
}"""

EMBED_DISTILL = """@misc{kim2023embeddistill,
  title={{EmbedDistill}: A Geometric Knowledge Distillation for Information Retrieval},
  author={Seungyeon Kim and Ankit Singh Rawat and Manzil Zaheer and Sadeep Jayasumana and Veeranjaneyulu Sadhanala and
    Wittawat Jitkrittum and Aditya Krishna Menon and Rob Fergus and Sanjiv Kumar},
  year={2023},
  eprint={2301.12005},
  archivePrefix={arXiv}
}"""

CONTRASTIVE_TENSION = """@inproceedings{carlsson2021semantic,
  title={Semantic Re-tuning with Contrastive Tension},
  author={Fredrik Carlsson and Amaru Cuba Gyllensten and Evangelia Gogoulou and Erik Ylip{\\"a}{\\"a} Hellqvist and Magnus Sahlgren},
  booktitle={International Conference on Learning Representations},
  year={2021}
}"""

TSDAE = """@inproceedings{wang2021tsdae,
  title={{TSDAE}: Using Transformer-based Sequential Denoising Auto-Encoder for Unsupervised Sentence Embedding Learning},
  author={Kexin Wang and Nils Reimers and Iryna Gurevych},
  booktitle={Findings of the Association for Computational Linguistics: EMNLP 2021},
  year={2021},
  eprint={2104.06979},
  archivePrefix={arXiv}
}"""

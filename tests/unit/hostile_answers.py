"""Answers that would take a symbolic library for ever, or make it raise, and references to try them on."""

from __future__ import annotations

GOLDS = [
    r"3\sqrt{13}", "42", "(2, 7]", r"\{2, 7\}", "x^2-x-1=0", r"x+\sqrt{x}", r"\sin x", r"\binom{n}{2}", "(n-1)!", "y=2x+3", r"e^{-60}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
    r"(-\infty,2)\cup(3,\infty)", "a=3,b=5", r"\sum_{k=1}^{n} k^2", "x+y<3", r"\text{(C)}", "5 cm",
]  # fmt: skip
HOSTILE = [
    r"\sin(\exp(\exp(\exp(9))))", r"\binom{x^{99}}{y^{99}}", r"\exp(\exp(\exp(\exp(x))))", r"\sqrt{x+\sqrt{x+1}}=\tan x", r"\sum_{k=1}^{1000}\sum_{j=1}^{1000} kj", r"\sum_{k=1}^{999}\sin(k^{k})", r"\prod_{k=1}^{999}k!",
    r"\sum_{k=1}^{n}k!^{k}", r"e^{-9999}+e^{-9998}+e^{-9997}", r"\sin(10^{5000})", r"\sin(e^{9000})", r"\tan(\frac{\pi}{2}+0)", r"\lfloor \sqrt2\sqrt2 \rfloor", r"\lfloor e^{9000} \rfloor", r"2^{\sqrt{2}^{\sqrt{2}}}",
    r"\binom{500}{250}^{60}", "500!^{8}", r"\frac{1}{x-x}", r"\ln(\ln(\ln(1)))", "(x+1)^{9999}", "(a+b+c+d+e+f+g+h)^{30}=0", "+".join(f"x_{i}" for i in range(40)), r"\sqrt{" * 20 + "x" + "}" * 20,
    r"\frac{1}{1+" * 20 + "x" + "}" * 20, ",".join(rf"\sqrt{{{i}}}" for i in range(24)), ",".join(f"e^{{-99{i:02d}}}+1" for i in range(18)), r"\cup".join(f"(e^{{-{9000 + i}}},e^{{-{8000 - i}}})" for i in range(9)),
    r"x<e^{-9999} \text{ or } x>1+e^{-9998}", r"\sin\sin\sin\sin\sin\sin x", r"\arctan(\arctan(\arctan(10^{2000})))", r"\arcsin(\sin(\arcsin(\sin(1))))", "|" * 7 + "x" + "|" * 7, "e^{e^{9}}+e^{-e^{9}}", r"(\sqrt{2}-1)^{9999}",
    r"(\sqrt{2}+\sqrt{3}+\sqrt{5}+\sqrt{7})^{999}", "0^{0}", r"\infty-\infty", "x^{x^{x}}", r"\lceil \pi^{9000} \rceil", "9" * 60 + "^{60}", "i^{i^{i}}", "(-1)^{x}", r"(-1)^{\sqrt{2}}", r"\ln(-1)^{99}", r"\log_{1}2",
    r"\begin{pmatrix} " + r" \\ ".join([r"e^{-9999}+1 & \pi^{9999}"] * 8) + r" \end{pmatrix}", r"\log_{x}x^{9999}", r"x=\tan(\tan(\tan(\tan(\tan(x)))))", r"\cosh(\cosh(\cosh(\cosh(2))))", "n!" * 20, "(n!)^{n}", r"\binom{n}{k}" * 10,
    r"\sum_{k=1}^{n}\sum_{j=1}^{k}\sum_{i=1}^{j} ij", r"\sum_{k=1}^{n^{9}}k", "10^{-9999}x", r"\frac{x^{999}+1}{x^{998}-1}", r"\sin(x^{999})", r"\sqrt[999]{x^{998}+1}", r"\{x : x > e^{-9999} \text{ or } x < -e^{-9999}\}",
    r"\frac{1}{\sin\pi}", r"\sin(\pi\cdot 10^{4000})", r"\cos(e^{9999})+1", "9^{9^{9^{9}}}", "9!!!!", "99999!", r"\binom{10^{9}}{5\cdot 10^{8}}", r"\sum_{k=1}^{10^{12}} k", r"\prod_{k=1}^{\infty} k", r"x^{10^{9}}=0", r"2^{2^{2^{2^{2^{2}}}}}",
    r"\gamma(\gamma(\gamma(x)))", r"\sqrt{\sqrt{\sqrt{\sqrt{10^{9999}}}}}", r"\frac{\frac{\frac{1}{0}}{0}}{0}", r"\ln 0", r"\tan 90^\circ", r"\arcsin 2", r"\sqrt[0]{2}", r"\sqrt[x]{x}", r"(1/2)!", r"(-3)!", r"\binom{1/2}{3/2}", r"\sum_{k=1}^{\pi} k",
    r"\sum_{k=1}^{kn} k", r"\prod_{k=1}^i_", r"\begin{cases}\end{cases}", r"\begin{pmatrix}\end{pmatrix}", "e" * 4 + "^{e^{e^{e}}}", r"x \ne \ne", r"\{x : x : x\}", r"\pm\pm\pm 1", r"\{" * 20 + r"\}" * 20, "_", "^", "1^", "x_", r"\frac", r"\sqrt", r"\frac{1}",
]  # fmt: skip

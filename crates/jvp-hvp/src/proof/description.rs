//! Every proof in words: its name, its identity, its bound, and what it cannot see.
//!
//! The bounds are the strictest that the literature of the subject holds itself to, and the noise of
//! exact rules stays more than fifty times below those on identities.

use super::{Allowed, Proof};

/// What is to be said of a proof.
pub(super) struct Description {
    pub(super) name: &'static str,
    pub(super) identity: &'static str,
    pub(super) allowed: Allowed,
    pub(super) blind_to: &'static str,
}

/// The slope of a remainder of this order.
const fn order(order: f64) -> Allowed {
    Allowed::Between(order - 0.05, order + 0.05)
}

impl Proof {
    /// The table.
    pub(super) const fn description(self) -> Description {
        match self {
            Self::ValueOrder => Description {
                name: "order 1: value",
                identity: "‖f(x + hv) - f(x)‖ ~ h",
                allowed: order(1.0),
                blind_to: "every derivative: it shows that f moves, and is one function at every call",
            },
            Self::JvpOrder => Description {
                name: "order 2: JVP",
                identity: "‖f(x + hv) - f(x) - h J v‖ ~ h²",
                allowed: order(2.0),
                blind_to: "the VJP, the second order, and a JVP that is wrong by less than about 1e-4 of itself \
                           (more, if f bends over less than the reach)",
            },
            Self::VjpOrder => Description {
                name: "order 2: VJP",
                identity: "φ(x + hv) - φ(x) - h ⟨Jᵀu, v⟩ ~ h²",
                allowed: order(2.0),
                blind_to: "the JVP, the second order, and a VJP that is wrong by less than about 1e-4 of itself \
                           (more, if f bends over less than the reach)",
            },
            Self::SecondOrder => Description {
                name: "order 3: φ",
                identity: "φ(x + hv) - φ(x) - h ⟨Jᵀu, v⟩ - h²/2 ⟨v, H v⟩ ~ h³",
                allowed: order(3.0),
                blind_to: "the JVP, u′, and an error of H with no part along v, as an antisymmetric one",
            },
            Self::GradientOrder => Description {
                name: "order 2: gradient",
                identity: "‖g(x + hv) - g(x) - h H v‖ ~ h²",
                allowed: order(2.0),
                blind_to: "the JVP, u′, and a gradient that is wrong together with its derivative",
            },
            Self::Adjoint => Description {
                name: "adjoint",
                identity: "⟨u, J v⟩ = ⟨Jᵀu, v⟩",
                allowed: Allowed::AtMost(1e-13),
                blind_to: "the second order, and a JVP and a VJP that are wrong in the same way",
            },
            Self::Symmetry => Description {
                name: "symmetry",
                identity: "⟨w, H v⟩ = ⟨v, H w⟩",
                allowed: Allowed::AtMost(1e-13),
                blind_to: "u′, and a symmetric mistake: what is detached in the forward still has a Hessian, \
                           of another function",
            },
            Self::Linearity => Description {
                name: "linearity",
                identity: "rule(a v + b w) = a rule(v) + b rule(w), H 0 = 0",
                allowed: Allowed::AtMost(1e-13),
                blind_to: "every mistake that is linear, which is nearly all",
            },
            Self::CotangentTangent => Description {
                name: "tangent of u",
                identity: "second(v; u, u′) - second(v; u) = Jᵀu′",
                allowed: Allowed::AtMost(1e-13),
                blind_to: "what u′ does not touch, and a VJP that is wrong in both",
            },
            Self::Invariance => Description {
                name: "invariance",
                identity: "f(x + w) = f(x) for all x ⇒ J w = 0, H w = 0, ⟨w, Jᵀu⟩ = 0, ⟨w, H v⟩ = 0",
                allowed: Allowed::AtMost(1e-12),
                blind_to: "a mistake that is itself invariant, as a scaled or a zero derivative",
            },
            Self::CentralDifference => Description {
                name: "central difference",
                identity: "H v = (g(x + hv) - g(x - hv)) / 2h at h = ∛ε",
                allowed: Allowed::AtMost(1e-8),
                blind_to: "the JVP, u′, and a gradient that is wrong together with its derivative",
            },
            Self::Repeatability => Description {
                name: "repeat",
                identity: "the same call gives the same bits",
                allowed: Allowed::AtMost(0.0),
                blind_to: "everything that is wrong in the same way twice",
            },
            Self::Agreement => Description {
                name: "oracle",
                identity: "every rule = the oracle's, max error / RMS",
                allowed: Allowed::AtMost(1e-12),
                blind_to: "what the oracle has wrong too",
            },
        }
    }
}
